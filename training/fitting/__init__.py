"""Rows -> detector: the fit, its calibration, and what drift detection compares with."""

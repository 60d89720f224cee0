"""Evaluation of the model on labelled files, compared with other detectors."""

"""How well the model detects on labelled files, beside other detectors."""

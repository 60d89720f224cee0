"""The commands of `python -m training` other than training, one module each."""

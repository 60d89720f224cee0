"""The commands of `python -m worker` other than running the worker, one module each."""

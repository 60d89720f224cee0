"""One training run, when it runs, and one at a time."""

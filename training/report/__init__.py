"""The report of a training, as an HTML page."""

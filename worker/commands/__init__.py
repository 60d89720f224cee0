"""What `python -m worker` does besides running: one module a command."""

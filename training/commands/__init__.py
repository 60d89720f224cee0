"""What `python -m training` does besides training: one module a command."""

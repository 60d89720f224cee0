"""Format `arrow`: IPC streams, many rows a record."""

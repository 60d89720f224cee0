"""Format `json`: arrays, and objects of named readings."""

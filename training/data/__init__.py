"""The rows that a training sees: the window, what is known of its vectors, features, and which rows are used."""

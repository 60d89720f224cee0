"""The five uses of the autoencoders, on digits, as a page."""

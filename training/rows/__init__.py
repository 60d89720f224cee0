"""Choices among rows in time order: evenly spread, or held out."""

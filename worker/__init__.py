"""Offnormal's long-running consumer, and everything that it shares with training."""

__version__ = "0.1.0"

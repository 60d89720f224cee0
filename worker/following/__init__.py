"""Lets scoring follow the plant, slowly: estimates trims (worker/models/trim.py) from committed vectors."""

from worker.following.following import Following

__all__ = ["Following"]

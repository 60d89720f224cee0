"""Requests by HTTP to what is outside: a schema registry, an identity provider."""

from worker.http_client.request import fetch

__all__ = ["fetch"]

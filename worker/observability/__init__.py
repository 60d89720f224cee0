"""How the worker reports on itself: logs, metrics, spans, the HTTP server, text for terminals."""

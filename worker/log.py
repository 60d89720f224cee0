"""Logging: structlog, JSON lines on standard error unless that is a terminal."""

import logging
import math
import sys
import time

import structlog

from worker.settings import LogSettings


def configure(settings: LogSettings) -> None:
    """Sends structlog and the libraries' logging to standard error in one format."""
    console = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(default=str)
    )
    structlog.configure(
        processors=[*shared, *([] if console else [structlog.processors.format_exc_info]), renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    handler.addFilter(_Seldom())
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    # It warns of its own event loop where another thread has had the processor for a tenth of a second.
    logging.getLogger("kafka.net.selector").setLevel(logging.ERROR)


class _Seldom(logging.Filter):
    """A broker that is away makes kafka-python say so many times a second, from many places: once in 10 s will do."""

    def __init__(self) -> None:
        super().__init__()
        self._last = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("kafka.net"):
            return True
        seldom = time.monotonic() - self._last >= 10.0
        if seldom:
            self._last = time.monotonic()
        return seldom

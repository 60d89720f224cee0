"""Logging: structlog, JSON lines on standard error unless that is a terminal."""

import logging
import math
import os
import sys
import time

import structlog

from worker.observability.terminal_text import printable
from worker.settings import LogSettings


def configure(settings: LogSettings) -> None:
    """Send structlog and the libraries' logging to standard error in one format."""
    console = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    colors = not os.environ.get("NO_COLOR")  # https://no-color.org
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Tracebacks are plain in both formats: with the frames' locals they would show secrets.
    last: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        *(
            [_clean, structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]
            if console
            else [structlog.processors.JSONRenderer(default=str)]
        ),
    ]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # It writes a line at once, its end included: the libraries' lines come from other threads.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    handler.addFilter(_Seldom())
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    # kafka-python warns about its event loop if another thread has had the processor for a tenth of a second.
    logging.getLogger("kafka.net.selector").setLevel(logging.ERROR)


def _clean(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Make texts printable, since senders choose the names of entities and the like.

    Other values are shown by their repr, which is printable. Tracebacks keep their line breaks.
    """
    return {
        name: printable(value, keep="\n" if name in ("exception", "stack") else "") if isinstance(value, str) else value
        for name, value in event.items()
    }


class _Seldom(logging.Filter):
    """Lets each kind of message from kafka-python pass once in 10 s.

    A broker that is away makes it log many times a second. All messages of its network layer, from many places, are one
    kind.
    """

    EVERY = 10.0  # seconds

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, str], float] = {}  # as many as kafka-python has kinds of messages

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("kafka."):
            return True
        kind = ("kafka.net", "") if record.name.startswith("kafka.net") else (record.name, str(record.msg)[:80])
        seldom = time.monotonic() - self._last.get(kind, -math.inf) >= self.EVERY
        if seldom:
            self._last[kind] = time.monotonic()
        return seldom

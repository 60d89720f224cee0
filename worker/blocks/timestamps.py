"""Times: milliseconds since the epoch, and RFC 3339."""

from datetime import UTC, datetime
from typing import Final

import numpy as np

from worker.blocks.bytes_column import BytesColumn
from worker.native.arrays import Int64s

_MAX_MS: Final = 253_402_300_799_999  # the end of the year 9999: RFC 3339 ends there


def iso(time_ms: int) -> str:
    """Return milliseconds since the epoch as RFC 3339, clipped to the years that it can express."""
    clipped = min(max(time_ms, 0), _MAX_MS)
    moment = datetime.fromtimestamp(clipped // 1000, UTC).replace(microsecond=clipped % 1000 * 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_column(times: Int64s) -> BytesColumn:
    """Return `iso` of each time."""
    clipped = np.clip(times, 0, _MAX_MS).astype("datetime64[ms]")
    texts = np.datetime_as_string(clipped, unit="ms", timezone="UTC").astype("S24")
    return BytesColumn(memoryview(texts.tobytes()), np.arange(len(times)) * 24, np.full(len(times), 24))


def milliseconds(text: object) -> int | None:
    """Return the milliseconds since the epoch of a time as RFC 3339; None if `text` is no such time."""
    try:
        return round(datetime.fromisoformat(str(text)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None

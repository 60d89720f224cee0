"""Event times: which times are valid, and what a number or a text means.

A number is seconds, milliseconds, microseconds or nanoseconds since the epoch, whichever lies between the years 1990
and 2100; no number does so in two of these units. A text is ISO 8601, RFC 2822, or such a number. An object has seconds
and nanoseconds. A local time without an offset is of the zone that OFFNORMAL_INPUT__TIMEZONE names.
"""

import contextlib
import math
import re
from datetime import UTC, datetime, timedelta, tzinfo
from email.utils import parsedate_to_datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from worker.decoding.dead_letter_reasons import BAD_TIME, Refused
from worker.native.arrays import Int64s
from worker.native.jit import inlined

NO_TIME: Final = np.iinfo(np.int64).min
FIRST_MS: Final = 631_152_000_000  # 1990
LAST_MS: Final = 4_102_444_800_000  # 2100
_FIRST_SECOND: Final = FIRST_MS // 1000
_LAST_SECOND, _LAST_US, _LAST_NS = LAST_MS // 1000, LAST_MS * 1000, LAST_MS * 1_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST: Final = 100  # characters of a time: Python refuses to read numbers of any length
_NUMBER: Final = re.compile(r"\d+(?:\.\d*)?")
_PARTS: Final = (("timeInSeconds", "offsetInNanos"), ("seconds", "nanos"))
_ZONE_NAME: Final = re.compile(r"\s*(?:UTC|GMT)$", re.IGNORECASE)


def whole_number(number: Any) -> Any:
    """Return a whole number as milliseconds; NO_TIME if it is not a valid time."""
    if number < _FIRST_SECOND:  # first: the compiler takes it that a product does not overflow
        time = number
    elif number < _LAST_SECOND:
        time = number * 1000
    elif number < LAST_MS:
        time = number
    elif number < _LAST_US:
        time = number // 1000
    elif number < _LAST_NS:
        time = number // 1_000_000
    else:
        time = LAST_MS
    return time if time >= FIRST_MS and time < LAST_MS else NO_TIME


def decimal_number(number: Any) -> Any:
    """Return a number with decimals as milliseconds; NO_TIME if it is not a valid time."""
    if not (number >= 0 and number < _LAST_NS):
        return NO_TIME
    if number < _LAST_SECOND:
        time = np.int64(number * 1000)
    elif number < LAST_MS:
        time = np.int64(number)
    elif number < _LAST_US:
        time = np.int64(number / 1000)
    else:
        time = np.int64(number / 1_000_000)
    return time if time >= FIRST_MS and time < LAST_MS else NO_TIME


ms_of_whole, ms_of_float = inlined(whole_number), inlined(decimal_number)  # for the compiled loops


def times_ms_of(numbers: npt.NDArray[Any]) -> Int64s:
    """Return numbers [n], whole or with decimals, as milliseconds; NO_TIME where one is not a valid time."""
    convert = decimal_number if numbers.dtype.kind == "f" else whole_number
    return np.array([convert(number) for number in numbers.tolist()], np.int64)


def milliseconds(value: Any, zone: tzinfo = UTC) -> int:
    """Return an event time in ms. Raises Refused. `zone` is that of times without an offset."""
    time: int | None = None
    if type(value) is int:
        time = _valid(int(whole_number(value)))
    elif type(value) is float and math.isfinite(value):
        time = _valid(int(decimal_number(value)))
    elif type(value) is str:
        time = _of_text(value.strip(), zone)
    elif type(value) is datetime:
        time = _of_moment(value, zone)
    elif type(value) is dict:
        time = _of_parts(value)
    if time is None:
        shown = type(value).__name__ if type(value) in (list, dict) else repr(str(value)[:40])
        raise Refused(BAD_TIME, f"{shown} is not a valid time (1990 to 2100)")
    return time


def moment(ms: int) -> datetime:
    """Return the time of a number of milliseconds since the epoch, which is never taken for another unit."""
    return _EPOCH + timedelta(milliseconds=ms)


def _valid(time: int) -> int | None:
    return time if FIRST_MS <= time < LAST_MS else None


def _of_text(text: str, zone: tzinfo) -> int | None:
    if len(text) > _LONGEST:
        return None
    if _NUMBER.fullmatch(text):
        time = _valid(int(decimal_number(float(text)) if "." in text else whole_number(int(text))))
        if time is not None:
            return time
    iso, is_utc = _ZONE_NAME.subn("", text)
    for parse, own_text in ((datetime.fromisoformat, iso), (parsedate_to_datetime, text)):
        try:
            moment = parse(own_text)
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
        return _of_moment(moment, UTC if is_utc else zone)
    return None


def _of_parts(parts: dict[str, Any]) -> int | None:
    """Return the time of seconds and nanoseconds, as AWS IoT SiteWise and Protobuf name them; None if they are none."""
    for seconds, nanoseconds in _PARTS:
        if parts.keys() <= {seconds, nanoseconds} and type(whole := parts.get(seconds)) in (int, str):
            with contextlib.suppress(ValueError, TypeError, OverflowError):
                rest = int(parts.get(nanoseconds, 0))
                if 0 <= rest < 1_000_000_000 and len(str(whole)) <= _LONGEST:
                    return _valid(int(whole) * 1000 + rest // 1_000_000)  # type: ignore[arg-type]
    return None


def _of_moment(moment: datetime, zone: tzinfo) -> int | None:
    try:
        return _valid(
            ((moment if moment.tzinfo else moment.replace(tzinfo=zone)) - _EPOCH) // timedelta(milliseconds=1)
        )
    except OverflowError:
        return None

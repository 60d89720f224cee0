"""The types of settings: durations, names, secrets, what a start may be."""

import json
import math
import re
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
)

from worker.settings.formats import FORMATS

PREFIX = "OFFNORMAL_"
CONFIG_FILE = PREFIX + "CONFIG"
# What OFFNORMAL_OUTPUTS may name: a topic of TopicSettings each. mypy finds what has to know a new one.
PerVectorOutput = Literal["scores", "latents", "reconstructions"]
SECRET_FILES = ("password_file", "signing_key_file", "token_file")

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")


def seconds(value: object) -> float:
    """`30`, `"30"`, `"500ms"`, `"24h"` -> seconds. Raises ValueError on anything else, negatives included."""
    if type(value) in (int, float) and math.isfinite(value) and value >= 0:  # type: ignore[operator,arg-type]
        return float(value)  # type: ignore[arg-type]
    match = _DURATION.fullmatch(str(value).strip())
    if not match:
        raise ValueError(f"{value!r} is no duration: write seconds, or a number with ms, s, m, h or d")
    return float(match[1]) * _UNITS[match[2] or "s"]


def listed(value: object) -> object:
    """Return the parts of a text with commas, or the list that it spells as JSON; anything else as it is."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError('neither names with commas, such as a,b, nor a JSON list, such as ["a", "b"]') from None
    return [part.strip() for part in value.split(",") if part.strip()]


def zone_name(name: str) -> str:
    """Return the name of a time zone. Raises ValueError where this machine does not know it."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name!r} is no time zone: write one such as Europe/Berlin or UTC") from None
    return name


def _start(value: object) -> object:
    text = str(value).strip()
    if text not in ("earliest", "latest"):
        start_time(text, now=0.0)
    return text


def start_time(start: str, now: float) -> float:
    """Return a time, or an age such as `-1h`, as seconds since the epoch; `now` in the same unit. Raises ValueError."""
    if start.startswith("-"):
        return now - seconds(start[1:])
    try:
        moment = datetime.fromisoformat(start)
    except ValueError:
        raise ValueError(f"{start!r}: write earliest, latest, a time such as 2026-01-31T08:00Z, or -1h") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _cron(value: str) -> str:
    try:
        CronSim(value, datetime.now(UTC))
    except CronSimError as error:
        raise ValueError(
            f"{error}: a cron expression has minute, hour, day, month, weekday, such as 0 3 * * *"
        ) from None
    return value


def lacks_package(extra: str) -> str | None:
    """Return what to do where an extra, such as a format, needs a package that is not installed."""
    package = "opentelemetry" if extra == "otel" else FORMATS[extra].package if extra in FORMATS else None
    if package is None or find_spec(package) is not None:
        return None
    return f"{extra} needs {package}: pip install 'offnormal[{extra}]'"


def with_its_package(extra: str) -> str:
    """Return the extra. Raises ValueError where its package is not installed."""
    if (lacks := lacks_package(extra)) is not None:
        raise ValueError(lacks)
    return extra


def _url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s@]+", value):
        raise ValueError("write http://host:port or https://host:port, user and password by settings of their own")
    return value


def _host_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,253}", value):
        raise ValueError(f"{value!r} is no host's name: write it without scheme and port, such as worker.plant.example")
    return value.lower().rstrip(".")


def _without_blanks(value: object) -> object:
    """Strip blanks around a secret: blanks alone are no secret."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    return text.strip() if isinstance(text, str) else text


_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")


def _topics(value: object) -> object:
    """Return the names of topics with commas in between, or a pattern. Raises ValueError."""
    if isinstance(value, str) and value.startswith("^"):
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from None
        return value
    names = listed(value)
    if not isinstance(names, list) or not names or not all(_TOPIC.fullmatch(str(name)) for name in names):
        raise ValueError(f"{value!r}: write a topic, several such as a,b, or a pattern such as ^plant-.*")
    return ",".join(dict.fromkeys(names))


Duration = Annotated[float, BeforeValidator(seconds)]
Topic = Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$")]
Topics = Annotated[str, BeforeValidator(_topics)]
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,100}$")]
HostName = Annotated[str, AfterValidator(_host_name)]
Key = Annotated[SecretStr, BeforeValidator(_without_blanks), Field(min_length=16)]

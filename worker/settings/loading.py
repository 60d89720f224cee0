"""Reads the settings. `load()` is the only way in: it turns whatever is wrong into one line that names the setting."""

import difflib
import json
import os
import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import (
    BaseModel,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    SettingsError as SourceError,
)

from worker.errors import SettingsError
from worker.settings.fields import CONFIG_FILE, PREFIX
from worker.settings.settings import Settings


def variables(model: type[BaseModel] = Settings, prefix: str = PREFIX) -> Iterator[tuple[str, FieldInfo]]:
    """Yield each setting's environment name and field, depth first."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from variables(kind, f"{prefix}{name.upper()}__")
        else:
            yield prefix + name.upper(), field


def describe() -> str:
    """Return the table of all settings that `--help-settings` shows."""
    lines = ["settings: the environment overrides the YAML file in OFFNORMAL_CONFIG, which overrides the defaults:"]
    for name, field in variables():
        default = field.default
        shown = "none" if default is None else f"{default:g}" if isinstance(default, float) else str(default)
        choices = [str(c) for c in get_args(field.annotation) if isinstance(c, str)]
        text = f"{field.description} [{', '.join(choices)}]" if len(choices) > 2 else field.description
        lines.append(f"  {name:<38} {shown:<24} {text}")
    return "\n".join(lines)


def load(**overrides: Any) -> Settings:
    """Read the settings. Raises SettingsError with one line that names what is wrong."""
    _refuse_unknown(os.environ)
    file = os.environ.get(CONFIG_FILE)
    if file and not os.path.isfile(file):
        raise SettingsError(f"{CONFIG_FILE}: no such file: {file}; name a YAML file, or unset it")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError("; ".join(_readable(e) for e in error.errors(include_url=False))) from None
    except SourceError as error:
        raise SettingsError(_unparseable(str(error))) from None
    except Exception as error:  # the YAML reader has its own errors
        raise SettingsError(f"{CONFIG_FILE}: {' '.join(str(error).split())}") from None


def _readable(error: Any) -> str:
    by_name = dict(variables())
    parts = [str(part).upper() for part in error["loc"] if not isinstance(part, int)]  # without a list's index
    name = PREFIX + "__".join(parts)
    while name not in by_name and len(parts) > 2:  # pydantic adds the branch of a union to the place
        parts.pop()
        name = PREFIX + "__".join(parts)
    message = error["msg"].removeprefix("Value error, ")
    if not parts:  # several settings do not go together: the message names them
        return str(message)
    if error["type"] == "extra_forbidden":
        return f"{name}: no such setting{_suggestion(name)}"
    # A section given as a whole may hold a password: only a single value that is no secret is shown.
    value = error.get("input")
    shown = name in by_name and not _SECRET.search(name) and isinstance(value, str | int | float)
    return f"{name}: {message}" + (f" (got {value!r})" if shown else "")


_SECRET = re.compile("PASSWORD|KEY|TOKEN|URL")  # of a URL it may hold a password


def _unparseable(message: str) -> str:
    """Return the error for a value that is no valid JSON: pydantic-settings names the field or section at most."""
    field = re.search(r'field "(\w+)"', message)
    name = PREFIX + (field[1].upper() if field else "")
    guilty = [n for n, f in variables() if n.startswith(name) and get_origin(f.annotation) and _is_no_json(n)]
    return f'{guilty[0] if guilty else name}: not valid JSON, such as \'["a", "b"]\' or \'{{"a": "b"}}\''


def _is_no_json(name: str) -> bool:
    try:
        json.loads(os.environ.get(name) or "{}")
    except ValueError:
        return True
    return False


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name, [n for n, _ in variables()], n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else "; `python -m worker --help-settings` lists all settings"


# What Kubernetes sets in every pod when a service is called "offnormal": no settings of ours.
_SERVICE_LINK = re.compile(
    r"OFFNORMAL(_[A-Z0-9_]+?)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)


def _refuse_unknown(environ: Any) -> None:
    """Refuse misspelt variables, which pydantic-settings ignores. A default in their place would be worse."""
    names = {name for name, _ in variables()} | {CONFIG_FILE}
    for name in environ:
        if not name.startswith(PREFIX) or name in names or name.startswith(PREFIX + "TEST_"):
            continue
        if "__" not in name and _SERVICE_LINK.fullmatch(name):
            continue
        if name.removeprefix(PREFIX).lower() in Settings.model_fields:  # a whole section as JSON
            continue
        raise SettingsError(f"{name}: no such setting{_suggestion(name)}")

"""The names of a model's features: as configured, else the champion's, else inferred from the records."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import structlog

from worker.blocks import RecordBlock
from worker.decoding import Decoder
from worker.decoding.reject_reasons import Refused
from worker.errors import NoModelError, SettingsError
from worker.schema_registry import SchemaRegistry
from worker.settings import InputSettings

log = structlog.get_logger()

LOOK_AT: Final = 2000  # records
NEARLY_ALL: Final = 0.95
_SETTING: Final = "OFFNORMAL_INPUT__FEATURES"


def choose(
    settings: InputSettings,
    champion: Sequence[str] | None,
    records: Sequence[RecordBlock],
    registry: SchemaRegistry | None = None,
) -> tuple[str, ...]:
    """Return the names of the features. Raises SettingsError or NoModelError where they cannot be determined."""
    configured = settings.features
    if isinstance(configured, tuple):
        if champion is not None and tuple(champion) != configured:
            log.warning("features_changed", champion=list(champion), configured=list(configured))
        return configured
    if champion is not None and configured in (None, len(champion)):
        return tuple(champion)
    if configured is not None:
        return _numbered(configured)
    return infer(settings, records, registry)


def infer(
    settings: InputSettings, records: Sequence[RecordBlock], registry: SchemaRegistry | None = None
) -> tuple[str, ...]:
    """Infer the features from records: the length of arrays, or every key that holds a number in nearly all rows."""
    try:
        decoder = Decoder(settings, (), registry)
        docs = [doc for block in records for doc in decoder.documents(block)]
    except Refused as error:
        raise SettingsError(f"{_SETTING}: {error}: set their number") from None
    if not docs:
        raise NoModelError(f"no record shows which features there are; set {_SETTING}")
    rows: list[Any] = []
    for doc in docs:
        rows.extend(_rows(doc))
    objects = [row for row in rows if type(row) is dict]
    if 2 * len(objects) < len(rows):
        lengths = Counter(len(row) for row in rows if type(row) is list)
        width, count = lengths.most_common(1)[0] if lengths else (0, 0)
        if not width:
            raise SettingsError(f"{_SETTING}: the records' arrays are empty: say how many features there are")
        if count < NEARLY_ALL * len(rows):
            raise SettingsError(
                f"{_SETTING}: the records' arrays have different lengths ({dict(lengths)}): say how many"
            )
        return _numbered(width)
    return _numeric_keys(settings, objects)


def _rows(doc: Any) -> list[Any]:
    if type(doc) is dict and type(doc.get("values")) in (list, dict):
        doc = doc["values"]
    if type(doc) is list and doc and type(doc[0]) in (list, dict):
        return [row["values"] if type(row) is dict and type(row.get("values")) is list else row for row in doc]
    return [doc] if type(doc) in (list, dict) else []


def _numeric_keys(settings: InputSettings, objects: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    fields = {settings.entity_field, settings.time_field}
    numbers = Counter(key for row in objects for key, value in row.items() if type(value) in (int, float))
    names = tuple(key for key, n in numbers.items() if n >= NEARLY_ALL * len(objects) and key not in fields)
    if not names:
        raise SettingsError(f"{_SETTING}: no key holds a number in nearly all records: name the features")
    rising = [name for name in names if len(objects) > 10 and _only_rises([row.get(name) for row in objects])]
    for name in rising:
        log.warning(
            "feature_suspected",
            feature=name,
            hint=f"it only rises; if it is a clock or a counter, set {_SETTING} without it",
        )
    log.info("features_inferred", features=list(names), left_out=sorted(set(numbers) - set(names)))
    return names


def _only_rises(values: Sequence[Any]) -> bool:
    numbers = [value for value in values if type(value) in (int, float)]
    return all(a <= b for a, b in zip(numbers, numbers[1:], strict=False)) and numbers[0] < numbers[-1]


def _numbered(width: int) -> tuple[str, ...]:
    return tuple(f"x{i}" for i in range(width))

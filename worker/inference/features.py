"""Infers the features from records: the length of arrays, or the keys that hold a reading in nearly all rows."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import structlog

from worker.blocks import RecordBlock
from worker.decoding import Decoder
from worker.decoding.coercion import coerced
from worker.decoding.dead_letter_reasons import Refused
from worker.decoding.shape import flat, unwrapped
from worker.errors import NoModelError, SettingsError
from worker.inference.columns import HINTS, Column, ColumnKind, column_of
from worker.native.arrays import Float64s, Int64s
from worker.schema_registry import SchemaRegistry
from worker.settings import InputSettings

log = structlog.get_logger()

NEARLY_ALL: Final = 0.95
_SETTING: Final = "OFFNORMAL_INPUT__FEATURES"
_SHOWN: Final = 20  # names in a log line
_SAMPLE: Final = 300  # characters of a record in an error


class _Rows(NamedTuple):
    """The rows of some records: an array or object each, the times [n] of their records in ms, and entities [n]."""

    rows: list[Any]
    time: Int64s
    entity: Int64s
    sample: Any  # one document, None without any
    coerce: bool  # text and booleans may be numbers

    def numbers(self, key: int | str) -> Float64s:
        """Return the numbers [n] at a place of the arrays, or at a key of the objects; NaN where there is none."""
        return np.array([_number(_at(row, key), self.coerce) for row in self.rows])

    def take(self, kept: Sequence[int]) -> "_Rows":
        return _Rows([self.rows[i] for i in kept], self.time[kept], self.entity[kept], self.sample, self.coerce)


def infer(
    settings: InputSettings, records: Sequence[RecordBlock], registry: SchemaRegistry | None = None
) -> tuple[str, ...]:
    """Return the features of these records; log the columns that are none.

    Raises NoModelError where there are none but clocks, counters, constants and ids, SettingsError where they have to
    be named.
    """
    try:
        found = _rows_of(settings, records, registry)
    except Refused as error:
        raise SettingsError(f"{_SETTING}: {error}: set their number") from None
    if found.sample is None:
        raise NoModelError(f"no record shows which features there are; set {_SETTING}")
    objects = [i for i, row in enumerate(found.rows) if type(row) is dict]
    if 2 * len(objects) < len(found.rows):
        return _numbered_features(found)
    return _named_features(settings, found.take(objects))


def columns_of(
    settings: InputSettings, records: Sequence[RecordBlock], registry: SchemaRegistry | None = None
) -> list[Column]:
    """Return the columns that hold a number in nearly all rows, readings and others. Raises SettingsError."""
    try:
        found = _rows_of(settings, records, registry)
    except Refused as error:
        raise SettingsError(f"{_SETTING}: {error}: set their number") from None
    objects = found.take([i for i, row in enumerate(found.rows) if type(row) is dict])
    if 2 * len(objects.rows) < len(found.rows):
        return [Column(name, "reading") for name in _numbered_features(found)]
    return _columns(objects, _names(settings, objects))


def without_clocks(
    features: Sequence[str],
    settings: InputSettings,
    records: Sequence[RecordBlock],
    registry: SchemaRegistry | None = None,
) -> tuple[str, ...]:
    """Return the features that are neither the time, nor the entity, nor another clock."""
    fields = _fields(settings)
    kept = [name for name in features if name not in fields]
    try:
        found = _rows_of(settings, records, registry)
    except Refused:  # numbers without names
        return tuple(kept)
    rows = found.take([i for i, row in enumerate(found.rows) if type(row) is dict])
    clocks = [column for column in _columns(rows, kept) if column.kind == "time"]
    _log_left_out(settings, clocks)
    names = {column.name for column in clocks}
    return tuple(name for name in kept if name not in names)


def absent(
    features: Sequence[str],
    settings: InputSettings,
    records: Sequence[RecordBlock],
    registry: SchemaRegistry | None = None,
) -> set[str]:
    """Return those of the features of which these records hold no reading."""
    try:
        found = _rows_of(settings, records, registry)
    except Refused:  # numbers without names
        return set()
    rows = found.take([i for i, row in enumerate(found.rows) if type(row) is dict])
    return {name for name in features if rows.rows and np.isnan(rows.numbers(name)).all()}


def _rows_of(settings: InputSettings, records: Sequence[RecordBlock], registry: SchemaRegistry | None) -> _Rows:
    """Return the rows. Raises Refused where a format does not name features."""
    decoder = Decoder(settings, (), registry)
    rows: list[Any] = []
    times: list[int] = []
    entities: list[int] = []
    number: dict[Any, int] = {}
    sample: Any = None
    for block in records:
        for record, document in decoder.documents(block):
            sample = unwrapped(document) if sample is None else sample
            try:
                found = decoder.shape.rows(document)
            except Refused:
                continue
            key: Any = block.keys[record]
            if settings.entity_field is not None:
                key = str(next(iter(decoder.shape.fields(found, settings.entity_field)), None))
            for readings in found.readings:
                rows.append(flat(readings) if type(readings) is dict else readings)
                times.append(int(block.timestamp[record]))
                entities.append(number.setdefault(key, len(number)))
    return _Rows(rows, np.array(times, np.int64), np.array(entities, np.int64), sample, settings.coerce)


def _at(row: Any, key: int | str) -> Any:
    return row.get(key) if type(row) is dict else row[key] if key < len(row) else None  # type: ignore[operator]


def _number(value: Any, coerce: bool) -> float:
    """Return a value as a number, NaN if a decoder would not take it for one."""
    try:
        number: Any = coerced(value) if coerce else value
        return float(number) if type(number) in (int, float) else math.nan
    except (Refused, OverflowError):
        return math.nan


def _columns(rows: _Rows, names: Sequence[str]) -> list[Column]:
    return [column_of(name, rows.numbers(name), rows.time, rows.entity) for name in names]


def _numbered_features(found: _Rows) -> tuple[str, ...]:
    lengths = Counter(len(row) for row in found.rows if type(row) is list)
    width, count = lengths.most_common(1)[0] if lengths else (0, 0)
    if not width:
        raise SettingsError(f"{_SETTING}: the records' arrays are empty: say how many features there are")
    if count < NEARLY_ALL * len(found.rows):
        raise SettingsError(f"{_SETTING}: the records' arrays have different lengths ({dict(lengths)}): say how many")
    arrays = found.take([i for i, row in enumerate(found.rows) if type(row) is list and len(row) == width])
    if np.isnan([arrays.numbers(j) for j in range(width)]).all():
        raise SettingsError(f"{_SETTING}: the records' arrays hold no numbers.{_sample(arrays)}")
    columns = [column_of(f"x{j}", arrays.numbers(j), arrays.time, arrays.entity) for j in range(width)]
    others = [column for column in columns if column.kind != "reading"]
    if len(others) == width:
        raise _no_reading(others, arrays)
    for kind, names in _by_kind(others).items():
        if kind in ("time", "counter"):  # nothing of an array can be left out here
            log.warning(
                "feature_suspected",
                kind=kind,
                features=names[:_SHOWN],
                hint="the record's arrays hold it, so it stays a feature; send arrays without it, or objects",
            )
    return tuple(column.name for column in columns)


def _named_features(settings: InputSettings, found: _Rows) -> tuple[str, ...]:
    names = _names(settings, found)
    if not names:
        raise SettingsError(
            f"{_SETTING}: no key holds a number in nearly all records: name the features.{_sample(found)}"
        )
    columns = _columns(found, names)
    others = [column for column in columns if column.kind != "reading"]
    if len(others) == len(columns):
        raise _no_reading(others, found)
    _log_left_out(settings, others)
    features = tuple(column.name for column in columns if column.kind == "reading")
    rare = sorted(set(_counts(settings, found)) - set(names) - _fields(settings))
    log.info("features_inferred", features=features[:_SHOWN], count=len(features), left_out=rare[:_SHOWN])
    return features


def _counts(settings: InputSettings, found: _Rows) -> "Counter[str]":
    """Return in how many rows each key holds a number."""
    return Counter(
        key for row in found.rows for key, value in row.items() if not math.isnan(_number(value, settings.coerce))
    )


def _names(settings: InputSettings, found: _Rows) -> list[str]:
    """Return the keys that hold a number in nearly all rows; of single readings, those that most entities have."""
    fields, counts = _fields(settings), _counts(settings, found)
    if settings.align:
        entities: dict[str, set[int]] = defaultdict(set)
        for row, entity in zip(found.rows, found.entity.tolist(), strict=True):
            for key in counts.keys() & row.keys():
                entities[key].add(entity)
        most = len(set(found.entity.tolist())) / 2
        return [key for key in counts if len(entities[key]) >= most and key not in fields]
    return [key for key, n in counts.items() if n >= NEARLY_ALL * len(found.rows) and key not in fields]


def _by_kind(columns: Sequence[Column]) -> Mapping[ColumnKind, list[str]]:
    names = defaultdict(list)
    for column in columns:
        names[column.kind].append(column.name)
    return names


def _prefix(settings: InputSettings) -> str:
    """Return what stands before the name of a reading in its path."""
    return f"{settings.values_field}." if settings.values_field else ""


def _fields(settings: InputSettings) -> set[str]:
    """Return the names, among the readings, of the entity and of the time.

    A path may begin at a row as well as at the record, and at the `values` of either.
    """
    paths = [path for path in (settings.time_field, settings.entity_field) if path is not None]
    return {path.removeprefix(prefix) for path in paths for prefix in ("", _prefix(settings), "values.")}


def _log_left_out(settings: InputSettings, columns: Sequence[Column]) -> None:
    prefix = _prefix(settings)
    for column in columns:
        if column.kind == "time":
            hint = HINTS["time"].format(column=prefix + column.name)
            log.warning("time_column_detected", column=column.name, unit=column.unit, hint=hint)
    for kind, names in _by_kind(columns).items():
        if kind != "time":
            hint = HINTS[kind].format(column=prefix + names[0])
            log.warning("columns_excluded", kind=kind, columns=names[:_SHOWN], count=len(names), hint=hint)


def _no_reading(columns: Sequence[Column], found: _Rows) -> NoModelError:
    """Return the error for records without any reading."""
    kinds = "; ".join(f"{kind}: {', '.join(names[:5])}" for kind, names in _by_kind(columns).items())
    return NoModelError(f"no column is a reading of a sensor ({kinds}).{_sample(found)} Set {_SETTING}")


def as_text(document: Any) -> str:
    """Return a document as JSON, to be shown."""
    try:
        return json.dumps(document, default=str)
    except RecursionError:
        return f"({type(document).__name__}, nested too deep to show)"


def _sample(found: _Rows) -> str:
    """Return the sentences that show a record, and the arrays in it that were passed over."""
    fields = flat(found.sample) if type(found.sample) is dict else {}
    arrays = [key for key, value in fields.items() if type(value) is list and value and type(value[0]) is dict]
    passed = ""
    if arrays:
        passed = (
            f" Passed over, since these hold arrays of objects: {', '.join(arrays[:5])};"
            " `python -m worker topics --look` may know their shape (OFFNORMAL_INPUT__SHAPE)."
        )
    text = as_text(found.sample)
    return f"{passed} A record: {text[:_SAMPLE]}{'...' if len(text) > _SAMPLE else ''}."

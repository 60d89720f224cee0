"""Tells of records that parse, but do not fit the settings: without any feature, or without a field that is set.

Such records are scored as far as possible, so nothing else would tell of a misspelt setting or of a sender that has
changed its format.
"""

import math
import time
from collections import Counter
from typing import Final, Literal

import numpy as np
import structlog

from worker.blocks import RecordBlock, VectorBlock
from worker.decoding import Decoder
from worker.decoding.dead_letter_reasons import Refused
from worker.errors import SchemaRegistryError
from worker.native.arrays import Bools
from worker.settings import InputSettings

log = structlog.get_logger()

Unmatched = Literal["no-feature", "no-entity-field", "no-time-field"]

TOLD_EVERY: Final = 60.0  # seconds between two log lines of one kind
SHOWN: Final = 10  # keys of the example
_HINTS: Final[dict[Unmatched, str]] = {
    "no-feature": "the model has other features, see `python -m worker check`; OFFNORMAL_INPUT__REJECT_EMPTY=true makes"
    " dead letters of such records",
    "no-entity-field": "check OFFNORMAL_INPUT__ENTITY_FIELD; the record's key is the entity instead",
    "no-time-field": "check OFFNORMAL_INPUT__TIME_FIELD; the record's own time counts instead",
}


class FieldCheck:
    """Counts and logs the records of blocks that do not fit. Used by one thread."""

    def __init__(self, settings: InputSettings):
        self._settings = settings
        self._told_at: dict[Unmatched, float] = {}
        self._untold: Counter[Unmatched] = Counter()
        self._feature_at = time.monotonic()  # when a single reading was last one of a feature, with a value

    def take(self, block: VectorBlock, has_no_score: Bools, decoder: Decoder) -> "Counter[str]":
        """Return how many records do not fit, by kind. `has_no_score` [n] are the vectors without a score."""
        parsed = len(block.records) - block.nulls - len(block.rejects)
        if parsed <= 0 or not len(block):
            return Counter()
        counts: Counter[Unmatched] = Counter()
        empty = np.empty(0, np.int64)
        if has_no_score.any():
            rows = np.flatnonzero(has_no_score)
            empty = np.unique(block.record[rows[np.isnan(block.x[rows]).all(axis=1)]])
            counts["no-feature"] = len(empty)
        if self._settings.entity_field is not None:
            counts["no-entity-field"] = parsed - len(block.entities)
        if self._settings.time_field is not None:
            counts["no-time-field"] = parsed - block.timed
        counts = +counts
        for kind, count in counts.items():
            self._untold[kind] += count
            if self._is_due(kind):
                self._tell(kind, block, int(empty[0]) if kind == "no-feature" else _without(kind, block), decoder)
        return Counter({str(kind): count for kind, count in counts.items()})

    def take_readings(self, records: RecordBlock, readings: int, useless: int, decoder: Decoder) -> "Counter[str]":
        """Return how many records do not fit, where no single reading has been one of a feature for a minute.

        A plant has more tags than a model, so some `useless` ones, of other tags or bad quality, are nothing to tell.
        """
        if not readings:
            return Counter()
        if useless < readings:
            self._feature_at = time.monotonic()
            return Counter()
        kind: Unmatched = "no-feature"
        self._untold[kind] += len(records)
        if self._is_due(kind) and time.monotonic() - self._feature_at >= TOLD_EVERY:
            self._told_at[kind] = time.monotonic()
            log.warning(
                "records_unmatched",
                reason=kind,
                records=self._untold.pop(kind),
                partition=records.topics.shown(int(records.partition[0])),
                offset=int(records.offset[0]),
                tags=_tags(records, decoder),
                hint="no reading is of a feature of the model and of good quality: see `python -m worker check`,"
                " OFFNORMAL_INPUT__QUALITY_FIELD and __GOOD",
            )
        return Counter({str(kind): len(records)})

    def _is_due(self, kind: Unmatched) -> bool:
        return time.monotonic() - self._told_at.get(kind, -math.inf) >= TOLD_EVERY

    def _tell(self, kind: Unmatched, block: VectorBlock, record: int, decoder: Decoder) -> None:
        self._told_at[kind] = time.monotonic()
        log.warning(
            "records_unmatched",
            reason=kind,
            records=self._untold.pop(kind),
            partition=block.records.topics.shown(int(block.records.partition[record])),
            offset=int(block.records.offset[record]),
            keys=_keys(block.records, record, decoder),
            hint=_HINTS[kind],
        )


def _without(kind: Unmatched, block: VectorBlock) -> int:
    """Return a record that has not the field. Which ones have a time is not known, so that may be another one."""
    if kind == "no-time-field":
        return int(block.record[0])
    return next((r for r in map(int, block.record) if r not in block.entities), int(block.record[0]))


def _tags(records: RecordBlock, decoder: Decoder) -> list[str] | str:
    try:
        return decoder.tags_of(records.take(np.arange(min(len(records), 100))))[:SHOWN]
    except (Refused, SchemaRegistryError) as error:
        return str(error)


def _keys(records: RecordBlock, record: int, decoder: Decoder) -> list[str] | str:
    """Return some keys of a record's document; else why there are none."""
    try:
        return decoder.keys_of(records, record)[:SHOWN]
    except (Refused, SchemaRegistryError) as error:
        return str(error)

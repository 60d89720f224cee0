"""Tells of records that parse, but do not fit the settings: without any feature, or without a field that is set.

Such records are scored as far as possible, so nothing else would tell of a misspelt setting or of a sender that has
changed its format.
"""

import time
from collections import Counter
from typing import Final, Literal

import numpy as np
import structlog

from worker.blocks import RecordBlock, VectorBlock
from worker.decoding import Decoder
from worker.decoding.reject_reasons import Refused
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

    def take(self, block: VectorBlock, has_no_score: Bools, decoder: Decoder) -> "Counter[str]":
        """Return how many records do not fit, by kind. `has_no_score` [n] are the vectors without a score."""
        parsed = len(block.records) - block.nulls - len(block.rejects)
        if not parsed:
            return Counter()
        examples: dict[Unmatched, tuple[int, int]] = {}  # how many, and the index of one
        if has_no_score.any():
            rows = np.flatnonzero(has_no_score)
            empty = np.unique(block.record[rows[np.isnan(block.x[rows]).all(axis=1)]])
            if len(empty):
                examples["no-feature"] = len(empty), int(empty[0])
        if self._settings.entity_field is not None and len(block.entities) < parsed:
            lacking = next(r for r in block.record.tolist() if r not in block.entities)
            examples["no-entity-field"] = parsed - len(block.entities), lacking
        if self._settings.time_field is not None and block.timed < parsed:
            examples["no-time-field"] = parsed - block.timed, int(block.record[0])
        for kind, (count, record) in examples.items():
            self._tell(kind, count, block.records, record, decoder)
        return Counter({kind: count for kind, (count, _) in examples.items()})

    def _tell(self, kind: Unmatched, count: int, records: RecordBlock, record: int, decoder: Decoder) -> None:
        self._untold[kind] += count
        now = time.monotonic()
        if now - self._told_at.get(kind, -TOLD_EVERY) < TOLD_EVERY:
            return
        self._told_at[kind] = now
        log.warning(
            "records_unmatched",
            reason=kind,
            records=self._untold.pop(kind),
            partition=int(records.partition[record]),
            offset=int(records.offset[record]),
            keys=_keys(records, record, decoder),
            hint=_HINTS[kind],
        )


def _keys(records: RecordBlock, record: int, decoder: Decoder) -> list[str] | str:
    """Return some keys of a record's document; else why there are none."""
    try:
        return decoder.keys_of(records, record)[:SHOWN]
    except (Refused, SchemaRegistryError) as error:
        return str(error)

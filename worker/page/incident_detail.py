"""One incident in detail: its entity's vectors around it, read back from Kafka and scored by the current model.

Bounded in records, bytes, values and time. The loop's own scoring is not touched.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from worker.alignment import Aligner
from worker.blocks import RecordBlock, VectorBlock
from worker.blocks.entity_hash import hashes
from worker.blocks.vector_id import VectorId
from worker.decoding import Decoder, aligner_of, vectors_of
from worker.decoding.sensor_reader import sensor_reader
from worker.detection.incident import Incident
from worker.kafka.reader import Reader
from worker.models.entities import EntityRows
from worker.native.arrays import Bools, Float32s, Int64s, UInt64s
from worker.page.texts import cut
from worker.schema_registry import SchemaRegistry
from worker.serving.loaded_model import LoadedModel
from worker.serving.model_swap import ResidentModels
from worker.serving.router import Router
from worker.settings import Settings
from worker.windows import Windows

BEFORE: Final = 200  # vectors of the entity before the incident, and after it, that are shown
AFTER: Final = 200
BACK: Final = (2_000, 20_000)  # records of the partition to read before it, to find these; the second if too few
RECORDS: Final = 50_000  # that are read at most
BYTES: Final = 64 * 2**20
VALUES: Final = 4_000_000  # readings, or their coefficients, that are held at most
PART: Final = 4096  # records, and rows, that are worked on at once
EXPLAINED: Final = 512  # rows at once, likewise
SHOWN: Final = 2_000  # maximum vectors; of more, the one with the highest score of each few
SENSORS: Final = 5
LEAST_SHARE: Final = 0.02  # of the evidence, to be drawn
PATIENCE: Final = 7.0  # seconds: what has come by then is shown


@dataclass
class _Found:
    """Vectors of one entity in the order of their offsets, in parts."""

    identity: int  # the entity's hash
    x: list[Float32s] = field(default_factory=list)  # as they were read [n, d]
    rows: list[Float32s] = field(default_factory=list)  # as the model sees them [n, D]
    time: list[Int64s] = field(default_factory=list)
    offset: list[Int64s] = field(default_factory=list)
    row: list[Int64s] = field(default_factory=list)
    n: int = 0
    before: int = 0
    after: int = 0
    records: int = 0  # of all entities that were read
    entity: str | None = None
    resident: LoadedModel | None = None
    is_cut: bool = False  # there is more than was read


class IncidentDetail:
    """Reads one incident's surroundings. Not for two threads at once."""

    def __init__(self, settings: Settings, models: ResidentModels):
        self._settings, self._models = settings, models
        self._router = Router(settings.model.routes, settings.model.name)
        self._registry = SchemaRegistry.of(settings)
        self._decoder: tuple[Sequence[str], Decoder] | None = None  # of features; it remembers schemas

    def around(self, place: VectorId, incident: Incident | None) -> dict[str, Any]:
        """Return what the page shows of the incident that began at this place. Raises KafkaUnavailable.

        `incident` is what is known of it, if anything. Raises LookupError where there is no model.
        """
        if self._models.lacking():
            raise LookupError("no model")
        deadline = time.monotonic() + PATIENCE
        kafka = self._settings.kafka.model_copy(update={"startup_timeout": PATIENCE / 2})
        with sensor_reader(self._settings, kafka, PART, only=(place.topic, place.partition)) as reader:
            start = next(iter(reader.starts().values()), None)
            if start is None:  # no such partition
                return {"gone": True, "records": 0}
            identity = incident.identity if incident is not None else self._identity(reader, place, deadline)
            if identity is None:
                return {"gone": True, "records": 0}
            last = place.offset if incident is None else incident.last[0]
            window = self._settings.model.window
            wanted = BEFORE + (window + self._settings.input.reorder if window > 1 else 0)
            for back in BACK:
                begin = max(place.offset - back, start)
                history = self._read(
                    reader=reader, place=place, identity=identity, begin=begin, last=last, deadline=deadline
                )
                is_whole = history.before >= wanted or begin == start or history.is_cut
                if is_whole or time.monotonic() > deadline - PATIENCE / 2:
                    break
        return self._detail(history, place, incident, start)

    # -- reading

    def _identity(self, reader: Reader, place: VectorId, deadline: float) -> int | None:
        """Return the hash of the entity whose vector lies there; None if it is gone."""
        for block in self._blocks(reader, place.offset, deadline):
            matches = np.flatnonzero(block.offset == place.offset)
            return int(self._identities(block)[matches[0]]) if len(matches) else None
        return None

    @staticmethod
    def _blocks(reader: Reader, begin: int, deadline: float) -> Iterator[RecordBlock]:
        """Yield the records of the reader's one partition from `begin` on, up to its current end."""
        reader.seek(dict.fromkeys(reader.partitions(), begin))
        while time.monotonic() < deadline:
            block = reader.poll(0.2)
            if block is not None:
                yield block
            elif reader.caught_up():
                return

    def _identities(self, block: RecordBlock) -> UInt64s:
        """Return the entity's hash [records] of each record."""
        if self._settings.input.entity_field is None:
            return hashes(block, block.keys)
        # The entity is the same whatever the features are, so any model's decoder tells it.
        any_model = next(iter(self._models.by_name.values()))
        return self._decoder_of(any_model).decode(block).entity_hash

    def _read(self, reader: Reader, place: VectorId, identity: int, begin: int, last: int, deadline: float) -> _Found:
        history, size = _Found(identity), 0
        decoder: Decoder | None = None
        aligner: Aligner | None = None
        windows: Windows | None = None
        room = VALUES
        for block in self._blocks(reader, begin, deadline):
            history.records += len(block)
            size += block.size
            own = np.flatnonzero(self._identities(block) == np.uint64(identity))
            if len(own):
                part = block.take(own)
                if decoder is None:
                    history.resident = self._resident(part.keys[0])
                    decoder, aligner, windows = self._ways(history.resident)
                vectors = vectors_of(part, decoder, aligner).block
                rows = vectors.x if windows is None else windows.push(vectors).x
                fits = min(len(vectors), room // max(rows.shape[1], 1))
                room -= fits * rows.shape[1]
                self._take(history=history, vectors=vectors, rows=rows, n=fits, first=place.offset, last=last)
                history.is_cut |= fits < len(vectors)
            if history.is_cut or history.after >= AFTER:
                break
            if history.records >= RECORDS or size >= BYTES:
                history.is_cut = True
                break
        else:
            history.is_cut |= time.monotonic() >= deadline
        return history

    def _resident(self, key: bytes | None) -> LoadedModel:
        """Return the model of the records with this key. Raises LookupError."""
        resident = self._models.serving(self._router.model(key) or self._settings.model.name)
        if resident is None:
            raise LookupError("no model")
        return resident

    def _decoder_of(self, resident: LoadedModel) -> Decoder:
        if self._decoder is None or self._decoder[0] != resident.features:
            self._decoder = resident.features, Decoder(self._settings.input, resident.features, self._registry)
        return self._decoder[1]

    def _ways(self, resident: LoadedModel) -> tuple[Decoder, Aligner | None, Windows | None]:
        settings, width = self._settings, len(resident.features)
        decoder = self._decoder_of(resident)
        one = settings.entities.model_copy(update={"max": 1})
        aligner = aligner_of(resident.card.holds, width, settings.input, one)
        if settings.model.window == 1:
            return decoder, aligner, None
        return (
            decoder,
            aligner,
            Windows(
                settings.model.window,
                width,
                settings.detection.max_missing,
                settings.input,
                one,
                interval=resident.card.interval,
            ),
        )

    @staticmethod
    def _take(history: _Found, vectors: VectorBlock, rows: Float32s, n: int, first: int, last: int) -> None:
        offset = vectors.records.offset[vectors.record[:n]]
        # Copies: a vector may lie in the fetched bytes, which would be held with it.
        history.x.append(np.array(vectors.x[:n]))
        history.rows.append(history.x[-1] if rows is vectors.x else np.array(rows[:n]))
        history.time.append(vectors.time[:n])
        history.offset.append(offset)
        history.row.append(vectors.row[:n])
        if n and not history.n:
            history.entity = vectors.entity(0)
        history.n += n
        history.before += int(np.count_nonzero(offset < first))
        history.after += int(np.count_nonzero(offset > last))

    # -- scoring

    def _detail(self, history: _Found, place: VectorId, incident: Incident | None, start: int) -> dict[str, Any]:
        is_deleted = start > place.offset
        resident = history.resident
        if resident is None or not history.n:
            return {"gone": is_deleted, "records": history.records}
        x, rows = np.concatenate(history.x), np.concatenate(history.rows)
        times = np.concatenate(history.time)
        offset, row = np.concatenate(history.offset), np.concatenate(history.row)
        entity = resident.entity_rows([history.entity], np.array([history.identity], np.uint64)).repeat(len(rows))
        scores = np.concatenate(
            [
                resident.score_apart(rows[i : i + PART], entity.take(slice(i, i + PART)))
                for i in range(0, len(rows), PART)
            ]
        )
        before = int(np.count_nonzero((offset < place.offset) | ((offset == place.offset) & (row < place.row))))
        last = place.offset if incident is None else incident.last[0]
        first, end = max(before - BEFORE, 0), int(np.count_nonzero(offset <= last)) + AFTER
        kept = first + _conspicuous(scores[first:end], SHOWN)
        expected, evidence = self._explained(resident, rows[kept], entity.take(kept))
        last_row = place.row if incident is None else incident.last[1]
        within = (kept >= before) & ((offset[kept] < last) | ((offset[kept] == last) & (row[kept] <= last_row)))
        named, absent = self._sensors(resident, incident, scores[kept], evidence, within)
        return {
            "gone": is_deleted,
            "cut": history.is_cut,
            "records": history.records,
            "vectors": len(scores[first:end]),
            "model": {"name": cut(resident.name), "version": cut(resident.version)},
            "named_by": [] if incident is None else [cut(version) for _, version in incident.models],
            "threshold": resident.threshold,
            "budget": resident.budget,
            "time": times[kept],
            "score": scores[kept],
            "p": resident.calibration.p_value(scores[kept]),
            "within": within.astype(np.uint8),
            "sensors": [
                {
                    "name": cut(resident.features[j]),
                    "share": share,
                    "actual": np.ascontiguousarray(x[kept, j]),
                    "expected": np.ascontiguousarray(expected[:, j]),
                }
                for j, share in named
            ],
            "absent": [cut(name) for name in absent],
        }

    @staticmethod
    def _explained(resident: LoadedModel, rows: Float32s, entity: EntityRows) -> tuple[Float32s, Float32s]:
        """Return what was expected [k, d] of the rows [k, D], and the evidence [k, d] against the features."""
        parts = [
            resident.explain(rows[i : i + EXPLAINED], entity.take(slice(i, i + EXPLAINED)))
            for i in range(0, len(rows), EXPLAINED)
        ]
        evidence = np.concatenate([p.contributions * p.strength[:, None] for p in parts])
        return np.concatenate([p.expected for p in parts]), evidence

    @staticmethod
    def _sensors(
        resident: LoadedModel,
        incident: Incident | None,
        scores: Float32s,
        evidence: Float32s,
        within: Bools,
    ) -> tuple[Sequence[tuple[int, float]], Sequence[str]]:
        """Return the guilty sensors with their shares of the evidence, and those that this model does not know.

        They are as the incident names them, else by this model.
        """
        if incident is not None:
            index = {name: j for j, name in enumerate(resident.features)}
            leading = [(name, share) for name, share in incident.leading()[:SENSORS] if share >= LEAST_SHARE]
            leading_known = [(index[name], share) for name, share in leading if name in index]
            if leading_known:
                return leading_known, [name for name, _ in leading if name not in index]
        over = within & (scores >= resident.threshold)
        if not over.any():
            over = np.arange(len(scores)) == (0 if np.isnan(scores).all() else np.nanargmax(scores))
        total = np.nan_to_num(evidence[over].astype(np.float64), posinf=0.0, neginf=0.0).sum(0)
        share = total / max(float(total.sum()), 1e-300)
        best = np.argsort(-share, kind="stable")[:SENSORS]
        sensors = [(int(j), float(share[j])) for j in best if share[j] >= LEAST_SHARE]
        return sensors, [] if incident is None else [name for name, _ in incident.leading()[:SENSORS]]


def _conspicuous(scores: Float32s, max_rows: int) -> Int64s:
    """Return at most `max_rows` indices, rising: of each few neighbours the one with the highest score."""
    if len(scores) <= max_rows:
        return np.arange(len(scores))
    begins = np.linspace(0, len(scores), max_rows + 1).astype(np.int64)
    ranked = np.where(np.isnan(scores), -np.inf, scores)
    return np.array([b + np.argmax(ranked[b:e]) for b, e in zip(begins[:-1], begins[1:], strict=True)], np.int64)

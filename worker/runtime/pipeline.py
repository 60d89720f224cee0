"""A pipeline: one model's way from records to outputs. A worker has one for each model that its routes name."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, assert_never

import numpy as np
import orjson
import structlog

from worker.alignment import Aligned, Aligner, Flush, hold_times, warm_up as warm_up_alignment
from worker.blocks import BytesColumn, RecordBlock, TopicSet, VectorBlock
from worker.decoding import Decoder, aligner_of, vectors_of
from worker.detection import Incidents, Judge
from worker.errors import SchemaRegistryError
from worker.kafka import Outputs, OutsideFault, Rewind
from worker.kafka.client import produce
from worker.models.entities import ANY_ENTITY, EntityRows
from worker.native.arrays import Float32s
from worker.observability.metrics import BatchCounts, Metrics
from worker.observability.tracing import Span
from worker.publishing.encoder import EventEncoder
from worker.rollout import Trials
from worker.runtime.field_check import FieldCheck
from worker.schema_registry import SchemaRegistry
from worker.serving.loaded_model import LoadedModel
from worker.serving.sample import Sample
from worker.settings import PerVectorOutput, Settings
from worker.windows import Windowed, Windows, max_gap

log = structlog.get_logger()

SET_BACK_TOLD_EVERY: Final = 60.0  # seconds
_NO_ROWS: Final = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class ScoredBatch:
    """The results of a block: its outputs, and the counts to add once it is committed."""

    block: VectorBlock
    outputs: Sequence[Outputs]
    counts: BatchCounts
    sample: Sample | None


class Pipeline:
    """Decodes, looks at windows, scores and judges by the resident model it is given; a batch by one model."""

    def __init__(
        self, settings: Settings, incidents: Incidents, encoder: EventEncoder, metrics: Metrics, trials: Trials
    ):
        self._settings = settings
        self._incidents, self._encoder, self._metrics, self._trials = incidents, encoder, metrics, trials
        self._judge = Judge(settings.detection.top_features)
        self._registry = SchemaRegistry.of(settings)
        self._resident: LoadedModel | None = None
        self._decoder: Decoder | None = None
        self._field_check = FieldCheck(settings.input)
        self._aligner: Aligner | None = None
        self._set_back_told_at = -SET_BACK_TOLD_EVERY
        self.windows: Windows | None = None

    @classmethod
    def standalone(cls, settings: Settings) -> "Pipeline":
        """Return a pipeline with parts of its own, that shares nothing with a worker's loop."""
        metrics = Metrics()
        incidents = Incidents(settings.incidents, TopicSet.of(settings.topics.sensors))
        return cls(settings, incidents, EventEncoder(settings), metrics, Trials(settings, metrics))

    @property
    def serves(self) -> bool:
        """Return whether there is a model to score with."""
        return self._resident is not None

    def serve(self, resident: LoadedModel) -> bool:
        """Score with `resident` from now on; return whether that is another model than before.

        Raises Rewind where its windows have to be filled first.
        """
        before, self._resident = self._resident, resident
        if before is resident:
            return False
        same_features = before is not None and before.features == resident.features
        if not same_features:
            self._decoder = Decoder(self._settings.input, resident.features, self._registry)
        if self._settings.input.align:
            if self._aligner is not None and same_features:
                self._aligner.hold(hold_times(self._settings.input, resident.card.holds, len(resident.features)))
            else:
                self._aligner = aligner_of(
                    resident.card.holds, len(resident.features), self._settings.input, self._settings.entities
                )
                if before is not None and self._settings.model.window == 1:
                    raise Rewind(f"model {resident.name} has other features: what is to be aligned is read again")
        if self._settings.model.window > 1 and not (same_features and self._same_max_gap(before, resident)):
            self.windows = Windows(
                self._settings.model.window,
                len(resident.features),
                self._settings.detection.max_missing,
                self._settings.input,
                self._settings.entities,
                interval=resident.card.interval,
            )
            if before is not None:
                raise Rewind(f"model {resident.name} has other features or intervals: its windows are to be filled")
        return True

    def _same_max_gap(self, before: LoadedModel | None, resident: LoadedModel) -> bool:
        inputs = self._settings.input
        return before is not None and max_gap(inputs, before.card.interval) == max_gap(inputs, resident.card.interval)

    def warm_up(self) -> None:
        """Score a dummy batch, so that live data do not wait for compiled code to be loaded. Has no side effects."""
        # The dummy records have none of these fields, and nobody is to be told of that.
        fields = ("values_field", "tag_field", "value_field", "entity_field", "time_field")
        inputs = self._settings.input.model_copy(update={**dict.fromkeys(fields), "align": False})
        settings = self._settings.model_copy(update={"input": inputs})
        if self._aligner is not None:
            warm_up_alignment()
        nowhere = TopicSet.of("")
        twin = Pipeline(settings, Incidents(settings.incidents, nowhere), self._encoder, Metrics(), self._trials)
        assert self._resident is not None
        twin.serve(self._resident)
        reading = np.full(len(self._resident.features), 1e30, np.float32)
        form = self._settings.input.format
        vector = reading.tobytes() if form == "f32" else orjson.dumps({"values": reading.tolist()})
        values = [vector] * (self._settings.model.window + 1) + [b"no vector"]
        n = len(values)
        index = np.arange(n)
        columns = BytesColumn.of([b"key"] * n), BytesColumn.of(values)
        # Other formats warm up by themselves; the steps after decoding are warmed up with JSON.
        headers = {} if form in ("f32", "json") else dict.fromkeys(range(n), [("content-type", b"json")])
        for _ in range(2):
            produce.warm_up(
                twin.score(RecordBlock(nowhere, np.zeros(n, np.int64), index, index, *columns, headers)).outputs
            )

    @property
    def memories(self) -> list[Aligner | Windows]:
        """Return what remembers earlier records."""
        return [memory for memory in (self._aligner, self.windows) if memory is not None]

    def refill(self, records: RecordBlock) -> None:
        """Take records that were scored long ago into the windows, and into what is to be aligned."""
        for part in [records] if self._aligner is None else self._aligner.split(records):
            block = self._vectors(part).block
            if self.windows is not None:
                self.windows.push(block)

    def repeat(self, partition: int, flushes: Sequence[Flush]) -> None:
        """Repeat the flushes of a partition's former owner, when the records come before which they were made."""
        if self._aligner is not None:
            self._aligner.repeat(partition, flushes)

    def forget(self, partition: int) -> None:
        """Forget what is remembered of a partition."""
        for memory in self.memories:
            memory.forget(partition)

    def score(self, records: RecordBlock, span: Span | None = None) -> ScoredBatch:
        """Decode, score and judge the records; return their outputs. Raises OutsideFault."""
        with self._metrics.stage.labels("decode").time():
            aligned = self._vectors(records)
        return self._score(aligned, span)

    def score_silent(self, partition: int, flush: Flush) -> ScoredBatch | None:
        """Score the vectors of entities that have been silent for long; return None if there are none."""
        if self._aligner is None:
            return None
        self._repeat(partition, flush.at)
        block = self._aligner.flush(partition, flush)
        return None if block is None else self._score(Aligned(block))

    def _repeat(self, partition: int, at: int) -> None:
        """Repeat the flushes of a former owner that were made when the offset `at` was next, or before."""
        for block in () if self._aligner is None else self._aligner.repeated(partition, at):
            if self.windows is not None:
                self.windows.push(block)

    def _vectors(self, records: RecordBlock) -> Aligned:
        """Decode the records to vectors. Raises Rewind where the schema registry is away."""
        assert self._decoder is not None
        try:
            for partition, offset in records.begins().items():
                self._repeat(partition, offset)
            return vectors_of(records, self._decoder, self._aligner)
        except SchemaRegistryError as error:  # then they are read again
            raise OutsideFault(str(error)) from None

    def _score(self, aligned: Aligned, span: Span | None = None) -> ScoredBatch:
        resident, stage, block = self._resident, self._metrics.stage, aligned.block
        assert resident is not None and self._decoder is not None
        records = block.records
        windowed = self._window(block)
        with stage.labels("score").time():
            entity = self._entities(block, resident)
            scores = resident.score(windowed.x, entity)
        with stage.labels("judge").time():
            anomalies = self._judge.anomalies(block, scores, resident, windowed.x, entity)
            self._incidents.observe(block, anomalies, resident)
        with stage.labels("encode").time():
            context = () if span is None else span.headers
            outputs = [self._encoder.anomalies(anomalies, block, resident, context)] if len(anomalies) else []
            if block.rejects:
                outputs.append(self._encoder.dead_letters(block.rejects, block))
            if len(block):
                for name in self._settings.outputs:
                    values = per_vector(name, resident, windowed.x, scores, entity)
                    outputs.append(self._encoder.vectors(name, scores, values, block, resident))
        has_no_score = np.isnan(scores)
        cold = int(np.count_nonzero(windowed.cold))
        if span is not None:
            span.tell(
                records,
                block.record[anomalies.index].tolist(),
                model_version=resident.scored_by,
                vectors=len(block),
                events=len(anomalies),
                dead_letters=len(block.rejects),
            )
        counts = BatchCounts(
            vectors=Counter({resident.version: len(block)}),
            events=Counter(anomalies.severities()),
            dead_letters=Counter(reject.reason for reject in block.rejects),
            unmatched=self._field_check.take(block, has_no_score, self._decoder)
            + self._field_check.take_readings(
                records, aligned.readings, aligned.unknown + aligned.empty, self._decoder
            ),
            unscorable=int(np.count_nonzero(has_no_score)) - cold,
            cold=cold,
            late=windowed.late,
            restarted=windowed.restarted + aligned.restarted,
            nulls=block.nulls,
            readings_late=aligned.late,
            readings_unknown=aligned.unknown,
            readings_empty=aligned.empty,
        )
        return ScoredBatch(block, outputs, counts, self._sample(block, scores, windowed.x, entity, resident))

    def _sample(
        self, block: VectorBlock, scores: Float32s, x: Float32s, entity: EntityRows, resident: LoadedModel
    ) -> Sample | None:
        if not len(block):
            return None
        with self._metrics.stage.labels("sample").time():
            return Sample.of(
                block=block,
                scores=scores,
                scored=x,
                rows_of=entity,
                resident=resident,
                share=self._trials.share(resident.name),
            )

    def _window(self, block: VectorBlock) -> Windowed:
        if self.windows is None:
            return Windowed(block.x, np.zeros(0, bool), 0, 0, _NO_ROWS)
        with self._metrics.stage.labels("window").time():
            windowed = self.windows.push(block)
        if len(windowed.set_back) and time.monotonic() >= self._set_back_told_at + SET_BACK_TOLD_EVERY:
            self._set_back_told_at = time.monotonic()
            log.warning(
                "event_time_reversed",
                entity=block.entity(int(windowed.set_back[0])),
                entities=len(windowed.set_back),
                consequence="no score until their windows are full again; local times need OFFNORMAL_INPUT__TIMEZONE",
            )
        return windowed

    @staticmethod
    def _entities(block: VectorBlock, resident: LoadedModel) -> EntityRows:
        """Return the rows of the vectors' entities in the model's tables."""
        if not resident.card.entities:
            return (
                ANY_ENTITY
                if resident.trims is None
                else resident.entity_rows(None, block.entity_hash).take(block.record)
            )
        entity_hashes, first, inverse = np.unique(block.entity_hash, return_index=True, return_inverse=True)
        keys = block.entity_names
        entity_names = [keys[int(i)] for i in first]
        rows = resident.entity_rows(
            [None if name is None else name.decode("utf-8", "replace") for name in entity_names], entity_hashes
        )
        return rows.take(inverse).take(block.record)


def per_vector(
    output: PerVectorOutput, resident: LoadedModel, x: Float32s, scores: Float32s, entity: EntityRows = ANY_ENTITY
) -> Float32s:
    """Return the values [n, k] that an output topic has of each vector."""
    match output:
        case "scores":
            # Not 0 as float32 either.
            p_values = np.maximum(resident.calibration.p_value(scores), np.finfo(np.float32).tiny)
            return np.column_stack((scores, p_values)).astype(np.float32)
        case "latents":
            return resident.encode(x, entity)
        case "reconstructions":
            return resident.reconstruct(x, entity)
        case _:
            assert_never(output)

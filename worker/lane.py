"""A lane: one model's way from records to outputs. A worker has one for each model that its routes name."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import orjson
import structlog

from worker.detection import Incidents, Judge
from worker.drift import Sample
from worker.engine import Int64s, Resident
from worker.errors import SchemaRegistryError
from worker.events import EventEncoder, PerVector
from worker.kafka import Outputs, Redo, produce
from worker.metrics import Metrics
from worker.schema_registry import SchemaRegistry
from worker.settings import Settings
from worker.traces import Span
from worker.trials import Trials
from worker.vectors import BytesColumn, Decoder, RecordBlock, VectorBlock
from worker.vectors.identity import identities, names
from worker.windows import Windowed, Windows

log = structlog.get_logger()

Float32s = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of a block: its outputs, and what is to be counted once it is committed."""

    version: str
    block: VectorBlock
    outputs: Sequence[Outputs]
    severities: Sequence[str]
    unscorable: int
    cold: int
    late: int
    restarted: int
    sample: Sample | None


class Lane:
    """Decodes, looks at windows, scores and judges by the resident model it is given; a batch by one model."""

    def __init__(
        self, settings: Settings, incidents: Incidents, encoder: EventEncoder, metrics: Metrics, trials: Trials
    ):
        self._settings = settings
        self._incidents, self._encoder, self._metrics, self._trials = incidents, encoder, metrics, trials
        self._judge = Judge(settings.detection.top_features)
        self._registry = SchemaRegistry.of(settings)
        self._resident: Resident | None = None
        self._decoder: Decoder | None = None
        self.windows: Windows | None = None

    def serve(self, resident: Resident) -> bool:
        """From now on by this model; True where that is another one than before. Raises Redo where its windows have to
        be filled first.
        """
        before, self._resident = self._resident, resident
        if before is resident:
            return False
        if before is None or before.features != resident.features:
            self._decoder = Decoder(self._settings.input, resident.features, self._registry)
            if self._settings.model.window > 1:
                self.windows = Windows(
                    self._settings.model.window,
                    len(resident.features),
                    self._settings.detection.max_missing,
                    self._settings.input,
                    self._settings.entities,
                )
                if before is not None:
                    raise Redo(f"model {resident.name} has other features: its windows are to be filled")
        return True

    def warm_up(self) -> None:
        """First calls load machine code, or compile it: that is not a live batch's to pay. Leaves no trace."""
        twin = Lane(self._settings, Incidents(self._settings.incidents, ""), self._encoder, Metrics(), self._trials)
        assert self._resident is not None
        twin.serve(self._resident)
        far = np.full(len(self._resident.features), 1e30, np.float32)
        form = self._settings.input.format
        vector = far.tobytes() if form == "f32" else orjson.dumps({"values": far.tolist()})
        values = [vector] * (self._settings.model.window + 1) + [b"no vector"]
        n = len(values)
        at = np.arange(n)
        columns = BytesColumn.of([b"key"] * n), BytesColumn.of(values)
        # Other formats warm up by themselves; what comes after them does by JSON.
        headers = {} if form in ("f32", "json") else dict.fromkeys(range(n), [("content-type", b"json")])
        for _ in range(2):
            produce.warm_up(twin.score(RecordBlock("", np.zeros(n, np.int64), at, at, *columns, headers)).outputs)

    def refill(self, records: RecordBlock) -> None:
        """Takes records that were scored long ago into the windows."""
        if self.windows is not None:
            self.windows.push(self._decode(records))

    def forget(self, partition: int) -> None:
        if self.windows is not None:
            self.windows.forget(partition)

    def score(self, records: RecordBlock, span: Span | None = None) -> Scored:
        resident, stage = self._resident, self._metrics.stage
        assert resident is not None
        with stage.labels("decode").time():
            block = self._decode(records)
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
        cold = int(np.count_nonzero(windowed.cold))
        if span is not None:
            span.tell(
                records,
                block.record[anomalies.index].tolist(),
                model_version=resident.version,
                vectors=len(block),
                events=len(anomalies),
                dead_letters=len(block.rejects),
            )
        return Scored(
            version=resident.version,
            block=block,
            outputs=outputs,
            severities=list(anomalies.severities()),
            unscorable=int(np.count_nonzero(np.isnan(scores))) - cold,
            cold=cold,
            late=windowed.late,
            restarted=windowed.restarted,
            sample=self._sample(block, scores, windowed.x, entity, resident),
        )

    def _decode(self, records: RecordBlock) -> VectorBlock:
        """Raises Redo where the schema registry is away: then the records are read again, until it is there."""
        assert self._decoder is not None
        try:
            return self._decoder.decode(records)
        except SchemaRegistryError as error:
            raise Redo(str(error)) from None

    def _sample(
        self, block: VectorBlock, scores: Float32s, x: Float32s, entity: Int64s | None, resident: Resident
    ) -> Sample | None:
        if not len(block):
            return None
        with self._metrics.stage.labels("sample").time():
            return Sample.of(block, scores, x, entity, resident, self._trials.share(resident.name))

    def _window(self, block: VectorBlock) -> Windowed:
        if self.windows is None:
            return Windowed(block.x, np.zeros(0, bool), 0, 0)
        with self._metrics.stage.labels("window").time():
            return self.windows.push(block)

    @staticmethod
    def _entities(block: VectorBlock, resident: Resident) -> Int64s | None:
        """[n] The rows of the model's entity scaler; None where it has none."""
        if not resident.card.entities:
            return None
        found, first, inverse = np.unique(identities(block), return_index=True, return_inverse=True)
        keys = names(block)
        told = [keys[int(i)] for i in first]
        rows = resident.entity_rows([None if name is None else name.decode("utf-8", "replace") for name in told])
        return None if rows is None else rows[inverse][block.record]


def per_vector(
    output: PerVector, resident: Resident, x: Float32s, scores: Float32s, entity: Int64s | None = None
) -> Float32s:
    """What an output topic says of each vector [n, k]."""
    if output == "latents":
        return resident.encode(x, entity)
    if output == "reconstructions":
        return resident.reconstruct(x, entity)
    p_values = np.maximum(resident.calibration.p_value(scores), np.finfo(np.float32).tiny)  # not 0 as float32 either
    return np.column_stack((scores, p_values)).astype(np.float32)

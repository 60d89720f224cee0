"""Compiles, for the image, what the worker would compile at its first batches: into NUMBA_CACHE_DIR, for CPUs like this
one. On another kind of CPU numba compiles anew.
"""

from datetime import UTC, datetime

import numpy as np
from kafka import TopicPartition
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords

from training.fitting.fit import fit
from worker.blocks import TopicSet
from worker.decoding import Decoder
from worker.drift.summary import Tally
from worker.kafka.client.fetch import PartitionColumns, block_of
from worker.models import Artefact, ModelCard
from worker.models.trim import PlacedTrims, Trim
from worker.models.wavelet import blocks
from worker.runtime.pipeline import Pipeline
from worker.schema_registry import SchemaRegistry
from worker.serving.model_swap import ResidentModels
from worker.settings import BatchSettings, InputSettings, ModelSettings, SchemaRegistrySettings, Settings
from worker.settings.formats import FORMATS


def artefact(window: int) -> Artefact:
    """A model of nothing in particular, of two features."""
    features = ("a", "b")
    rows = np.random.default_rng(0).normal(size=(400, 2 * blocks(window))).astype(np.float32)
    fitted = fit(rows[:300], rows[300:], features, "stacked", window=window, steps=30)
    card = ModelCard(
        name="default",
        version="20260101T000000-compile",
        kind="stacked",
        architecture=fitted.detector.module.autoencoder.architecture(),
        features=features,
        window=window,
        created=datetime.now(UTC).isoformat(),
        rows={},
        trained_on={},
        quality={},
    )
    return Artefact.make(card, fitted.detector, rows[300:])


def main() -> None:
    for window in (1, 2):
        for kind, align in (("f32", False), ("json", True)):
            settings = Settings(
                device="cpu",
                batch=BatchSettings(max_rows=64),
                input=InputSettings(format=kind, align=align, step=1 if align else None),
                model=ModelSettings(window=window),
            )
            pipeline = Pipeline.standalone(settings)
            resident = ResidentModels(settings).load(artefact(window).dump())
            pipeline.serve(resident.trimmed({"t/0": PlacedTrims({1: Trim.none(resident.width, 2)}, (1,))}, 1))
            pipeline.warm_up()
    registry = SchemaRegistry(SchemaRegistrySettings(url="http://nowhere"))
    for name in FORMATS:
        Decoder(InputSettings(format=name), ("a", "b"), registry)
    Decoder(InputSettings(shape="readings", step=1), ("a", "b"))
    row = np.zeros((1, 2), np.float32)
    Tally(2).add(row, np.ones(1), np.zeros(1, bool), np.zeros(1, np.int64), 1.0)
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 16)
    builder.append(0, 0, b"key", b"value", [("name", b"value")])
    for data in (bytes(builder.build()), bytearray(builder.build())):
        place = TopicPartition("", 0)
        block_of(TopicSet.of(""), {place: [*PartitionColumns(0, place, MemoryRecords(data)).take(1)]})


if __name__ == "__main__":
    main()

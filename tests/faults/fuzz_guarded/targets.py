"""The targets by their names."""

from typing import Final

from tests.faults.fuzz_guarded.arrow_target import ArrowTarget
from tests.faults.fuzz_guarded.avro_target import AvroTarget
from tests.faults.fuzz_guarded.batches_target import BatchesTarget
from tests.faults.fuzz_guarded.f32_target import F32Target
from tests.faults.fuzz_guarded.json_target import DigitsTarget, JsonTarget
from tests.faults.fuzz_guarded.produce_target import ProduceTarget
from tests.faults.fuzz_guarded.target import Target
from tests.faults.fuzz_guarded.template_target import TemplateTarget

TARGETS: Final[dict[str, type[Target]]] = {
    "json": JsonTarget, "digits": DigitsTarget, "f32": F32Target, "avro": AvroTarget, "arrow": ArrowTarget,
    "batches": BatchesTarget, "produce": ProduceTarget, "template": TemplateTarget,
}  # fmt: skip

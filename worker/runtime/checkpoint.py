"""A checkpoint: what one commit covers, the outputs of some batches and the offsets after them."""

import time
from dataclasses import dataclass, field

from worker.observability.metrics import BatchCounts
from worker.publishing.findings import Finding
from worker.runtime.pipeline import ScoredBatch
from worker.serving.sample import Sample


@dataclass
class Checkpoint:
    """What is scored and not yet committed."""

    ends: dict[int, int] = field(default_factory=dict)  # partition -> offset to commit
    counts: BatchCounts = field(default_factory=BatchCounts)
    has_outputs: bool = False
    samples: list[Sample] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)  # published with it
    since: float = 0.0

    @property
    def empty(self) -> bool:
        """Return whether there is nothing to commit."""
        return not self.ends

    def begin(self) -> None:
        """Take note of the time, if what comes now is the first that it covers."""
        if self.empty:
            self.since = time.monotonic()

    def add(self, batch: ScoredBatch) -> None:
        """Add a batch; its offsets are added by the session."""
        self.counts += batch.counts
        self.has_outputs |= bool(batch.outputs)
        if batch.sample is not None:
            self.samples.append(batch.sample)

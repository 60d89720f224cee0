"""Does the plant still run as it did when the model was trained? Looks at batch summaries, beside the loop."""

from worker.drift.found import Drift, SensorFault
from worker.drift.sample import Sample
from worker.drift.watch import DriftWatch

__all__ = ["Drift", "DriftWatch", "Sample", "SensorFault"]

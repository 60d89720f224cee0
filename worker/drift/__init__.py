"""Does the plant still run as it did when the model was trained? Looks at batch summaries, beside the loop."""

from worker.drift.drift_watch import DriftWatch
from worker.drift.found import Drift, SensorFault
from worker.drift.sample import Sample

__all__ = ["Drift", "DriftWatch", "Sample", "SensorFault"]

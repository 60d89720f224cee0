"""Does the plant still run as it did when the model was trained? Looks at batch summaries, beside the loop."""

from worker.drift.drift_detection import DriftWatch
from worker.drift.findings import Drift, SensorFault
from worker.serving.sample import Sample

__all__ = ["Drift", "DriftWatch", "Sample", "SensorFault"]

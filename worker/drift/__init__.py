"""Detects whether the plant still runs as it did in training, from batch summaries, in parallel with the loop."""

from worker.drift.drift_detection import DriftWatch
from worker.drift.findings import Drift, SensorFault
from worker.serving.sample import Sample

__all__ = ["Drift", "DriftWatch", "Sample", "SensorFault"]

"""From scores to what is worth telling: p-value, severity, attribution. Knows nothing of Kafka, or of torch modules."""

from worker.detection.judge import Anomaly, Feature, Judge

__all__ = ["Anomaly", "Feature", "Judge"]

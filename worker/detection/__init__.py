"""From scores to what is worth telling: p-value, severity, attribution, incidents. Knows nothing of Kafka, or of torch
modules.
"""

from worker.detection.incidents import Incident, Incidents, Suspect
from worker.detection.judge import Anomaly, Feature, Judge

__all__ = ["Anomaly", "Feature", "Incident", "Incidents", "Judge", "Suspect"]

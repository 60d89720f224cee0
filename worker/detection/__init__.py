"""From scores to what is worth reporting: p-value, severity, attribution, incidents.

Knows nothing of Kafka, or of torch modules.
"""

from worker.detection.incident import Incident, Suspect
from worker.detection.incident_tracker import Incidents
from worker.detection.judge import Anomalies, Judge

__all__ = ["Anomalies", "Incident", "Incidents", "Judge", "Suspect"]

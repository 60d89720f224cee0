"""All settings: one frozen tree, read from OFFNORMAL_ variables over a YAML file over defaults.

`load()` is the only way in. Settings of a section are in sections.py, their types in fields.py.
"""

from worker.settings.fields import CONFIG_FILE, PREFIX, Duration, PerVectorOutput, lacks_package, seconds, start_time
from worker.settings.input_section import InputSettings
from worker.settings.loading import describe, load, variables
from worker.settings.sections import (
    BatchSettings,
    DetectionSettings,
    EntitySettings,
    HttpSettings,
    IncidentSettings,
    KafkaSettings,
    LogSettings,
    ModelSettings,
    SchemaRegistrySettings,
    TopicSettings,
    TrainingSettings,
)
from worker.settings.settings import Settings

__all__ = [
    "CONFIG_FILE",
    "PREFIX",
    "BatchSettings",
    "DetectionSettings",
    "Duration",
    "EntitySettings",
    "HttpSettings",
    "IncidentSettings",
    "InputSettings",
    "KafkaSettings",
    "LogSettings",
    "ModelSettings",
    "PerVectorOutput",
    "SchemaRegistrySettings",
    "Settings",
    "TopicSettings",
    "TrainingSettings",
    "describe",
    "lacks_package",
    "load",
    "seconds",
    "start_time",
    "variables",
]

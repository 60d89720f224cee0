"""The registry: model versions, aliases and history, in the compacted `models` topic (registry.py says how)."""

from worker.registry.artefact_records import PART_BYTES, new_version
from worker.registry.follower import RegistryFollower
from worker.registry.registry import Decision, Registry, What, now
from worker.registry.view import Alias, AliasRecord, RegistryView

__all__ = [
    "PART_BYTES",
    "Alias",
    "AliasRecord",
    "Decision",
    "Registry",
    "RegistryFollower",
    "RegistryView",
    "What",
    "new_version",
    "now",
]

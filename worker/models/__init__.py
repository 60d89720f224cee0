"""Autoencoders, scaling, scoring, calibration, and the artefact that carries them. Knows nothing of Kafka."""

from worker.models.artefact import Artefact, ModelCard
from worker.models.attribution import Attribution
from worker.models.base import Autoencoder
from worker.models.calibration import Calibration, Promise
from worker.models.detector import Detector, ScoringModule
from worker.models.entities import EntityScaler
from worker.models.kinds import KINDS
from worker.models.reference import Reference
from worker.models.scaler import Scaler
from worker.models.whitening import Whitening

__all__ = [
    "KINDS",
    "Artefact",
    "Attribution",
    "Autoencoder",
    "Calibration",
    "Detector",
    "EntityScaler",
    "ModelCard",
    "Promise",
    "Reference",
    "Scaler",
    "ScoringModule",
    "Whitening",
]

"""The names of a model's features: as configured, else the champion's, else inferred from the records."""

from collections.abc import Sequence

import structlog

from worker.blocks import RecordBlock
from worker.inference import infer, without_clocks
from worker.schema_registry import SchemaRegistry
from worker.settings import InputSettings

log = structlog.get_logger()


def choose(
    settings: InputSettings,
    champion: Sequence[str] | None,
    records: Sequence[RecordBlock],
    registry: SchemaRegistry | None = None,
) -> tuple[str, ...]:
    """Return the names of the features. Raises SettingsError or NoModelError where they cannot be determined.

    A champion of an earlier release, or from before OFFNORMAL_INPUT__TIME_FIELD was set, may have a clock among its
    features, which is left out.
    """
    configured = settings.features
    if isinstance(configured, tuple):
        if champion is not None and tuple(champion) != configured:
            log.warning("features_changed", champion=list(champion), configured=list(configured))
        return configured
    if champion is not None and configured == len(champion):
        return tuple(champion)
    if configured is not None:
        return tuple(f"x{i}" for i in range(configured))
    if champion is None:
        return infer(settings, records, registry)
    kept = without_clocks(champion, settings, records, registry)
    if len(kept) < len(champion):
        log.warning("features_changed", champion=list(champion), configured=list(kept))
    return kept or infer(settings, records, registry)

"""Incidents of several entities that open together: one cause often shows on many machines."""

from collections import OrderedDict
from datetime import datetime
from typing import Any, Final

MOST: Final = 10_000  # incidents that are remembered


class Related:
    """Remembers which incidents have opened lately, by event time, in whatever order they come."""

    def __init__(self, within: float):
        self._within = within
        self._opened: OrderedDict[str, tuple[float, str]] = OrderedDict()  # incident -> start in seconds, entity

    def take(self, data: dict[str, Any]) -> list[str]:
        """Return the other entities with an incident that opened within `within` seconds of this one, nearest first.

        Updates of a known incident do not count again. Raises KeyError and the like for data that is no incident.
        """
        started, entity = datetime.fromisoformat(data["started"]).timestamp(), str(data["entity"] or "-")
        self._opened[str(data["incident"])] = (started, entity)
        while len(self._opened) > MOST:
            self._opened.popitem(last=False)
        near = sorted(
            (abs(related_entity - started), name)
            for related_entity, name in self._opened.values()
            if abs(related_entity - started) <= self._within and name != entity
        )
        return list(dict.fromkeys(name for _, name in near))

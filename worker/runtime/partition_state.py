"""What is stored beside a partition's committed offset, so that the next owner goes on as if nothing had happened."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from worker.alignment import Flush
from worker.detection.incident import Suspect
from worker.kafka.offset_metadata import MAX_BYTES, SOURCE_BYTES

_ROOM: Final = MAX_BYTES - SOURCE_BYTES - 100  # the last for the names and brackets


@dataclass(frozen=True)
class PartitionState:
    """What is stored beside a partition's committed offset for its next owner.

    `replay` is the offset from which the windows fill up again. `suspects` are entities with vectors over budget that
    have not opened an incident yet. If they do not all fit, those seen first are left out. `flushes` are when vectors
    were made of the last readings of silent entities.
    """

    replay: int | None = None
    suspects: Sequence[Suspect] = ()
    flushes: Sequence[Flush] = ()

    def dump(self) -> dict[str, Any]:
        """Return the state as JSON has it, bounded in size."""
        if self.replay is None and not self.suspects:
            return {}
        flushes = {"flushes": [list(flush) for flush in self.flushes]} if self.flushes else {}
        suspects, size = list[Any](), len(json.dumps(flushes))
        for suspect in self.suspects:
            doc = suspect.as_json()
            size += len(json.dumps(doc, separators=(",", ":"))) + 1
            if size > _ROOM:
                break
            suspects.append(doc)
        return {"replay": self.replay, "suspects": suspects, **flushes}

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> "PartitionState":
        """Return the state; an empty one if what is stored there is not ours."""
        try:
            replay = state["replay"]
            if replay is not None and (type(replay) is not int or replay < 0):
                return cls()
            flushes = [Flush(int(at), int(before)) for at, before in state.get("flushes", ())]
            return cls(replay, [Suspect.of_json(s) for s in state["suspects"]], flushes)
        except (ValueError, KeyError, TypeError, RecursionError):
            return cls()

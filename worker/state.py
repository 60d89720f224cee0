"""What is stored beside a partition's committed offset, so that the next owner goes on as if nothing had happened."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from worker.detection.incident import Suspect

# Kafka's offset.metadata.max.bytes is 4096 unless a broker says otherwise.
MOST_BYTES: Final = 4000


@dataclass(frozen=True)
class PartitionState:
    """`replay` is the offset from which the windows fill up again; `suspects` are entities with vectors over budget
    that have not opened an incident yet. Those that do not fit are left out, the ones last seen first to stay.
    """

    replay: int | None = None
    suspects: Sequence[Suspect] = ()

    def dump(self) -> str:
        if self.replay is None and not self.suspects:
            return ""
        told, kept = [], 0
        for suspect in self.suspects:
            text = json.dumps(suspect.as_json(), separators=(",", ":"))
            if kept + len(text) + 1 > MOST_BYTES - 100:
                break
            told.append(text)
            kept += len(text) + 1
        return f'{{"replay":{json.dumps(self.replay)},"suspects":[{",".join(told)}]}}'

    @classmethod
    def load(cls, metadata: str) -> "PartitionState":
        """Whatever somebody else has stored there is no state of ours: then it is empty."""
        try:
            doc: Any = json.loads(metadata)
            replay = doc["replay"]
            if replay is not None and (type(replay) is not int or replay < 0):
                return cls()
            return cls(replay, [Suspect.of_json(s) for s in doc["suspects"]])
        except (ValueError, KeyError, TypeError, RecursionError):
            return cls()

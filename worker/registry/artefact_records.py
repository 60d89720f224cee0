"""An artefact as records: one, or parts and a manifest."""

import hashlib
import json
from datetime import datetime
from typing import Final

from worker.registry.view import MANIFEST_TYPE

# A broker takes records of 1 MiB unless told otherwise; a part leaves room for its key and headers.
PART_BYTES: Final = 900_000


def artefact_records(name: str, version: str, data: bytes) -> list[tuple[str, bytes | None, list[tuple[str, bytes]]]]:
    """Return the records of an artefact, as keys, values and headers; the manifest comes last."""
    key = f"artefact/{name}/{version}"
    if len(data) <= PART_BYTES:
        return [(key, data, [("content-type", b"application/vnd.offnormal.safetensors")])]
    parts = [data[i : i + PART_BYTES] for i in range(0, len(data), PART_BYTES)]
    manifest = {"parts": len(parts), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return [
        *((f"{key}/part/{i}", part, []) for i, part in enumerate(parts)),
        (key, json.dumps(manifest).encode(), [("content-type", MANIFEST_TYPE)]),
    ]


def new_version(created: datetime, content: bytes) -> str:
    """Return a version that sorts by time; its end tells two trainings of one second apart."""
    return f"{created:%Y%m%dT%H%M%S}-{hashlib.sha256(content).hexdigest()[:6]}"

"""Artefacts that must not be served, as somebody could write them to the registry topic."""

import gzip
import json
import random
import struct
from collections.abc import Callable, Iterator
from unittest import mock

import torch

from tests.unit.worker.models.test_artefact import forged
from worker.models import Artefact
from worker.registry.artefact_records import artefact_records

Records = list[tuple[str, bytes | None, list[tuple[str, bytes]]]]  # key, value, headers
Forgery = Callable[[random.Random, bytes, str], Records]


def forgeries(of: Artefact, rng: random.Random, n: int) -> Iterator[tuple[str, str, Records]]:
    """-> what was done, the version that is to be promoted, and the records to write."""
    kinds = list(FORGERIES.items())
    data = of.dump()
    for k in range(n):
        name, forgery = kinds[k % len(kinds)]
        version = f"{of.card.version}x{k}"
        told = forged(data, lambda tensors, card: card.update(version=version))  # noqa: B023
        yield name, version, forgery(rng, told, version)


def _plain(version: str, data: bytes) -> Records:
    return [(f"artefact/default/{version}", data, [("content-type", b"application/vnd.offnormal.safetensors")])]


def flipped(rng: random.Random, data: bytes, version: str) -> Records:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 8, 100])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return _plain(version, bytes(changed))


def truncated(rng: random.Random, data: bytes, version: str) -> Records:
    return _plain(version, data[: rng.randrange(1, len(data))])


def extended(rng: random.Random, data: bytes, version: str) -> Records:
    return _plain(version, data + rng.randbytes(rng.randrange(1, 5000)))


def swapped(rng: random.Random, data: bytes, version: str) -> Records:
    def change(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
        a, b = rng.choice(
            [("module.scaler.location", "module.scaler.scale"), ("calibration.body", "calibration.survival")]
        )
        tensors[a], tensors[b] = tensors[b], tensors[a]

    return _plain(version, forged(data, change))


def not_finite(rng: random.Random, data: bytes, version: str) -> Records:
    def change(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
        name = rng.choice([name for name in tensors if name.startswith("module.")])
        tensors[name].view(-1)[0] = rng.choice([torch.nan, torch.inf])

    return _plain(version, forged(data, change))


def another_weight(rng: random.Random, data: bytes, version: str) -> Records:
    def change(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
        tensors["module.whitening.root"].mul_(rng.uniform(1.1, 3))

    return _plain(version, forged(data, change))


def huge_shapes(rng: random.Random, data: bytes, version: str) -> Records:
    """Of a tensor in the file's header, and of a layer in the card."""
    if rng.random() < 0.5:
        header = {"x": {"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 1 << 62]}}
        told = json.dumps(header).encode()
        return _plain(version, struct.pack("<Q", len(told)) + told + b"\0" * 64)

    def change(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
        card["architecture"] = {"width": 4, "sizes": [10**9, 10**9]}

    return _plain(version, forged(data, change))


def huge_header(rng: random.Random, data: bytes, version: str) -> Records:
    return _plain(version, struct.pack("<Q", rng.choice([1 << 63, 1 << 40, len(data) + 1])) + data[8:])


def deep_header(rng: random.Random, data: bytes, version: str) -> Records:
    told = b'{"__metadata__":{"offnormal":"' + b"[" * 100_000 + b'"}}'
    return _plain(version, struct.pack("<Q", len(told)) + told)


def another_name(rng: random.Random, data: bytes, version: str) -> Records:
    return _plain(version, forged(data, lambda tensors, card: card.update(name="another")))


def older_version(rng: random.Random, data: bytes, version: str) -> Records:
    return _plain(version, forged(data, lambda tensors, card: card.update(version="20200101T000000-000000")))


def forged_card(rng: random.Random, data: bytes, version: str) -> Records:
    changes: list[dict[str, object]] = [
        {"format_version": 99}, {"kind": "os.system"}, {"features": ["a"]}, {"window": 8}, {"entities": ["e"]},
        {"surplus": 1}, {"architecture": {"__class__": "x"}}, {"rows": "many"},
    ]  # fmt: skip
    return _plain(version, forged(data, lambda tensors, card: card.update(rng.choice(changes))))


def compressed(rng: random.Random, data: bytes, version: str) -> Records:
    """A bomb: who unpacked it would have 200 MB."""
    return _plain(version, gzip.compress(bytes(200_000_000), 1))


def pickled(rng: random.Random, data: bytes, version: str) -> Records:
    """What torch.save writes begins like this; to load it is to run it."""
    return _plain(version, b"PK\x03\x04" + b"cos\nsystem\n(S'touch /tmp/owned'\ntR." + data)


def in_parts(rng: random.Random, data: bytes, version: str) -> Records:
    """One missing, two in each other's place, one of another artefact, or a manifest that lies."""
    with mock.patch("worker.registry.artefact_records.PART_BYTES", len(data) // 4):
        whole = artefact_records("default", version, data)
    parts, (key, manifest, headers) = whole[:-1], whole[-1]
    kind = rng.randrange(4)
    if kind == 0:
        del parts[rng.randrange(len(parts))]
    elif kind == 1:
        (a, first, h), (b, second, _) = parts[0], parts[1]
        parts[0], parts[1] = (a, second, h), (b, first, h)
    elif kind == 2:
        parts[0] = (parts[0][0], b"x" * 100, [])
    else:
        manifest = json.dumps({"parts": rng.choice([1 << 40, 2]), "bytes": 1, "sha256": "0" * 64}).encode()
    return [*parts, (key, manifest, headers)]


FORGERIES: dict[str, Forgery] = {
    call.__name__: call
    for call in (
        flipped, truncated, extended, swapped, not_finite, another_weight, huge_shapes, huge_header, deep_header,
        another_name, older_version, forged_card, compressed, pickled, in_parts,
    )
}  # fmt: skip

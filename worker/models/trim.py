"""Trims: what scoring allows for, entity by entity, since a plant does not stay as it was when its model was trained.

A trim has two numbers for each column of a row: `shift`, by how much the normal residual has moved, and `looseness`,
the logarithm of how many times wider it has become. The score sees the residual without its shift, and the whitened
residual divided by exp(looseness). It also names sensors that are ignored, as if their readings were missing. Shift 0,
looseness 0, and nothing ignored change nothing. worker/following estimates trims.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from worker.models.whitening import Whitening
from worker.native.arrays import Bools, Float32s, Int64s, UInt64s
from worker.native.jit import compiled, read_only


@dataclass(frozen=True, eq=False)
class Trim:
    """The trim of one entity: `shift` [D], in scaled units, `looseness` [D], never negative, and `ignored` [d]."""

    shift: Float32s
    looseness: Float32s
    ignored: Bools

    @classmethod
    def none(cls, width: int, features: int) -> "Trim":
        """Return a trim of D = `width` columns of d `features` that changes nothing."""
        return cls(np.zeros(width, np.float32), np.zeros(width, np.float32), np.zeros(features, bool))


@dataclass(frozen=True, eq=False)
class PlacedTrims:
    """The trims of the entities of one partition, by their hashes, and the entities' names.

    `written` are the numbers of its records in the models topic, the oldest first; the last one has these trims.
    """

    trims: Mapping[int, Trim]
    written: tuple[int, ...]
    names: Mapping[int, str | None] = field(default_factory=dict)


class Trims:
    """The trims of e entities, as scoring needs them: tables with a row for each, after a first row without a trim.

    `entities` [e] are hashes (worker/blocks/entity_hash.py) in ascending order. The tables are [1 + e, D]: `shift`;
    `offset`, which is the whitened -(mean + shift); and `shrink`, exp(-looseness). A whitened residual is
    (residual @ root + offset) shrink. `counted` [1 + e] is how many of the D columns are not ignored; `ignored`
    [1 + e, D] is None where none is.
    """

    def __init__(self, trims: Mapping[int, Trim], whitening: Whitening, features: int):
        """Make the tables of trims by the hashes of their entities, on the device of the whitening."""
        width, device = len(whitening.mean), whitening.mean.device
        self.entities: UInt64s = np.array(sorted(trims), np.uint64)
        ordered = [Trim.none(width, features), *(trims[entity] for entity in self.entities.tolist())]
        ignored = np.stack([np.tile(trim.ignored, width // features) for trim in ordered])
        self.ignored: Bools | None = ignored if ignored.any() else None
        self.counted = torch.from_numpy((~ignored).sum(1)).to(device)
        self.shift = torch.from_numpy(np.stack([trim.shift for trim in ordered])).to(device)
        self.shrink = torch.from_numpy(np.stack([np.exp(-trim.looseness) for trim in ordered])).to(device)
        self.offset: Tensor = -((whitening.mean + self.shift) @ whitening.root)

    def without_ignored(self, x: Float32s, row: Int64s) -> Float32s:
        """Return rows x [n, D] of the entities in the rows `row` [n] without the readings that are ignored."""
        if self.ignored is None:
            return x
        hidden = self.ignored[row]
        return np.where(hidden, np.float32(np.nan), x) if hidden.any() else x

    def rows(self, entity_hash: UInt64s) -> Int64s:
        """Return the row of the tables for each entity [n]; 0 for one without a trim."""
        rows = np.empty(len(entity_hash), np.int64)
        _find(self.entities, read_only(entity_hash), rows)
        return rows


@compiled
def _find(entities, entity_hash, rows):  # type: ignore[no-untyped-def]
    row = 0
    for i in range(len(entity_hash)):
        if i == 0 or entity_hash[i] != entity_hash[i - 1]:
            k = np.searchsorted(entities, entity_hash[i])
            row = k + 1 if k < len(entities) and entities[k] == entity_hash[i] else 0
        rows[i] = row

"""A scaler for each entity: one model over a fleet of machines that do the same at different levels.

A known entity's readings are converted to the fleet's units, x' = m + (x - m_e) s / s_e, with location m and scale s of
the fleet and m_e, s_e of the entity (defined in worker/models/scaler.py). Those of an unknown entity stay unchanged;
its fallback is the fleet's scaler, which follows. The conversion commutes with the coefficients of windows, so windows
can keep raw readings.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from worker.models.scaler import LARGEST, Scaler
from worker.native.arrays import Bools, Float32s, Int64s

MIN_ROWS: Final = 50  # with fewer an entity is not known
# The minimum scale of an entity, as a share of the fleet's: a sensor that rests in one machine is not anomalous as soon
# as it moves as in others.
LEAST_SCALE: Final = 0.01


class EntityRows(NamedTuple):
    """The rows of n vectors' entities in a model's tables: of its entity scalers [n], and of its trims [n] (trim.py).

    None where the model has no such table.
    """

    scaler: Int64s | None = None
    trim: Int64s | None = None

    def take(self, rows: slice | Int64s | Bools) -> "EntityRows":
        """Return those of some of the vectors."""
        return EntityRows(*(None if table is None else table[rows] for table in self))

    @classmethod
    def concat(cls, parts: Sequence["EntityRows"]) -> "EntityRows":
        """Join the rows of one model, in order."""
        tables = ([table for table in of_parts if table is not None] for of_parts in zip(*parts, strict=True))
        return cls(*(np.concatenate(table) if table else None for table in tables))

    def repeat(self, n: int) -> "EntityRows":
        """Return those of n vectors of the only entity."""
        return EntityRows(*(None if table is None else np.repeat(table, n) for table in self))


ANY_ENTITY: Final = EntityRows()  # for a model that treats all entities alike


class EntityScaler(nn.Module):
    """A scaler for each of the entities `names`.

    `location` and `ratio` (s / s_e) are [1 + e, d], the first row the fleet's.
    """

    def __init__(self, names: Sequence[str], location: Tensor, ratio: Tensor):
        super().__init__()
        self.rows = {name: row for row, name in enumerate(names, 1)}
        self.register_buffer("location", location)
        self.register_buffer("ratio", ratio)

    location: Tensor
    ratio: Tensor

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the entities with a scaler of their own."""
        return tuple(self.rows)

    @classmethod
    def fit(cls, x: Float32s, entity: Int64s, names: Sequence[str]) -> "EntityScaler":
        """Fit to rows [n, d] of the entities `names[entity]`.

        A feature that an entity never reads is scaled as the fleet's.
        """
        fleet = Scaler.fit(x)
        names_fitted, location, ratio = [], [fleet.location], [torch.ones_like(fleet.scale)]
        for code, name in enumerate(names):
            rows = x[entity == code]
            if len(rows) < MIN_ROWS:
                continue
            read = ~np.isnan(rows).all(0)
            own = Scaler.fit(np.where(read, rows, np.float32(0)))
            is_present = torch.from_numpy(read)
            scale = torch.maximum(own.scale, LEAST_SCALE * fleet.scale)
            names_fitted.append(name)
            location.append(torch.where(is_present, own.location, fleet.location))
            ratio.append(torch.where(is_present, fleet.scale / scale, 1.0))
        return cls(names_fitted, torch.stack(location), torch.stack(ratio))

    def row(self, name: str | None) -> int:
        """Return the entity's row; 0, the fleet's, if it is not known."""
        return self.rows.get(name, 0) if name is not None else 0

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        """Return x [n, K d], of the entities in `row` [n], in the fleet's units."""
        d = self.location.shape[1]
        level = (x[:, :d] - self.location[row]) * self.ratio[row] + self.location[0]
        differences = x[:, d:] * self.ratio[row].tile(1, x.shape[1] // d - 1)  # these have no level
        return torch.cat((level, differences), 1).clamp_(-LARGEST, LARGEST)

    def inverse(self, x: Tensor, row: Tensor) -> Tensor:
        """Return x in the entities' own units again."""
        d = self.location.shape[1]
        level = (x[:, :d] - self.location[0]) / self.ratio[row] + self.location[row]
        differences = x[:, d:] / self.ratio[row].tile(1, x.shape[1] // d - 1)
        return torch.cat((level, differences), 1).clamp_(-LARGEST, LARGEST)

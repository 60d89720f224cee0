"""Codes of entities: a small number for each entity that has state, by which the state lies in columns."""

# mypy: disable-error-code="no-untyped-def"
import time
from typing import Final

import numpy as np

from worker.native.arrays import Int64s, UInt64s
from worker.native.jit import compiled

_SWEEP_EVERY: Final = 10.0  # seconds
_SPARE: Final = 0.1  # share of the entities to evict at once if there are too many: it costs a pass over all


class EntityCodes:
    """Codes below `capacity`, by the entities' hashes and partitions.

    An entity that has been idle for `idle` seconds loses its code, as do the idlest when there is no room. Whoever
    keeps state by code has to drop it then.
    """

    def __init__(self, capacity: int, idle: float):
        self._idle = idle
        self._seen = np.zeros(capacity, np.float64)
        self.owner = np.zeros(capacity, np.uint64)  # hash of the entity, 0 for none
        self.partition = np.zeros(capacity, np.int64)
        self._free = np.arange(capacity - 1, -1, -1)  # from the end: low codes first
        self._n_free = capacity
        slots = 1 << (2 * capacity - 1).bit_length()
        self._slots = np.zeros(slots, np.uint64)
        self._slot_codes = np.zeros(slots, np.int64)
        self._swept = time.monotonic()
        self.evicted = 0

    def __len__(self) -> int:
        return len(self.owner) - self._n_free

    def assign(self, hashes: UInt64s, partitions: Int64s) -> Int64s:
        """Return the codes of the first rows [n], as many as there is room for."""
        codes = np.empty(len(hashes), np.int64)
        done, self._n_free = assign(
            self._slots,
            self._slot_codes,
            hashes,
            partitions,
            self._free,
            self._n_free,
            self.owner,
            self.partition,
            self._seen,
            time.monotonic(),
            codes,
        )
        return codes[:done]

    def of_partition(self, partition: int) -> Int64s:
        """Return the codes of a partition's entities."""
        return np.flatnonzero((self.owner != 0) & (self.partition == partition))

    def idle(self) -> Int64s:
        """Return the codes to drop because of idleness. Looks only now and then."""
        now = time.monotonic()
        if now - self._swept < _SWEEP_EVERY:
            return np.empty(0, np.int64)
        self._swept = now
        idle = np.flatnonzero((self.owner != 0) & (now - self._seen >= self._idle))
        self.evicted += len(idle)
        return idle

    def idlest(self) -> Int64s:
        """Return the codes to drop where there is no room."""
        spare = max(1, int(len(self.owner) * _SPARE))
        used = np.flatnonzero(self.owner)
        idlest = used[np.argpartition(self._seen[used], spare - 1)[:spare]]
        self.evicted += len(idlest)
        return idlest

    def drop(self, codes: Int64s) -> None:
        """Take the codes from their entities."""
        if not len(codes):
            return
        self.owner[codes] = 0
        self._free[self._n_free : self._n_free + len(codes)] = codes
        self._n_free += len(codes)
        rebuild(self._slots, self._slot_codes, self.owner)


@compiled
def assign(slots, slot_codes, hashes, partitions, free, n_free, owner, owner_partition, last_seen, now, out):
    """Return how many rows there was room for, and how many codes are free then.

    `out` gets the codes [n] of the rows' entities by their hashes [n]; new entities take codes from the stack `free`.
    The table uses open addressing with linear probing; 0 is an empty slot.
    """
    mask = len(slots) - 1
    for i in range(len(hashes)):
        slot = np.int64(hashes[i] & np.uint64(mask))
        while slots[slot] != 0 and slots[slot] != hashes[i]:
            slot = (slot + 1) & mask
        if slots[slot] == 0:
            if n_free == 0:
                return i, n_free
            n_free -= 1
            code = free[n_free]
            slots[slot] = hashes[i]
            slot_codes[slot] = code
            owner[code] = hashes[i]
            owner_partition[code] = partitions[i]
        out[i] = slot_codes[slot]
        last_seen[out[i]] = now
    return len(hashes), n_free


@compiled
def rebuild(slots, slot_codes, owner):
    """Rebuild the table, of the codes that have an owner."""
    mask = len(slots) - 1
    slots[:] = 0
    for code in range(len(owner)):
        if owner[code] != 0:
            slot = np.int64(owner[code] & np.uint64(mask))
            while slots[slot] != 0:
                slot = (slot + 1) & mask
            slots[slot] = owner[code]
            slot_codes[slot] = code

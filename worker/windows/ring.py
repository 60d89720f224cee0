"""The compiled loops over rows: rows into the rings, windows out of them.

State is in columns over all entities. An entity's ring holds its last w + `reorder` vectors by event time; entry j of n
lies at (head + j) mod its length, the newest at j = n - 1.
"""

# mypy: disable-error-code="no-untyped-def"
from typing import Final

import numpy as np

from worker.native.jit import compiled

COLD, LATE, RESTARTED, SET_BACK = 1, 2, 4, 8  # flags of a row
JUMP = 4  # intervals: a longer pause at the end of a set-back means that the clock was right before it
SET_BACK_RUN = 4  # as many late rows one after another may be disorder, even where `reorder` is smaller


# A difference is missing unless this share of the readings is there in each half that it compares: means of fewer
# scatter more than the model has learned. (With 30 % of the readings dropped, held-out windows of an SMD machine had 68
# times the requested rate, and have 1.3 times.)
KNOWN: Final = 0.75


@compiled
def first_offset(ring_offset, c, head, count):
    """Return the smallest offset in the ring of the entity `c`."""
    length = ring_offset.shape[1]
    lowest = ring_offset[c, head]
    for j in range(1, count):
        lowest = min(lowest, ring_offset[c, (head + j) % length])
    return lowest


@compiled
def push(
    x,
    time,
    offset,
    codes,
    rings,
    ring_time,
    ring_offset,
    head,
    count,
    last,
    late_run,
    anchor,
    high,
    in_order,
    spans,
    step,
    max_gap,
    reorder,
    min_present,
    out,
):
    """Take rows [n, d] in the order of their arrival; return flags [n].

    A row that is late by more than `reorder` rows has no window: a window of it would hold a jump that never was. It
    does not change the ring. More such rows one after another (`late_run`) than disorder explains show a clock that was
    set back: the window begins anew. If they were a burst of old vectors, the next vector is far ahead of them again,
    and the window begins anew once more.

    A replay that begins within such a run would not find it. So `anchor` keeps the offset from which the run is found
    again, -1 for none, until it no longer matters: once a whole ring of rows has come in order (`in_order`), each later
    than all rows before the run (`high`).

    `out` [n, K d] gets the coefficients of each row's window (worker/models/wavelet.py), over the readings that are
    there; NaN where they are too few (KNOWN), the window is not full, or the row has fewer than `min_present` readings.
    """
    n_rows, d = x.shape
    length = rings.shape[1]
    window = length - reorder
    flags = np.zeros(n_rows, np.uint8)
    total, n_seen = np.empty(d), np.empty(d)  # in double: a mean of large readings is as exact as they are
    more, more_seen = np.empty(d), np.empty(d)
    for i in range(n_rows):
        c, t = codes[i], time[i]
        if step > 0:
            t = (t + step // 2) // step * step
        n, h = count[c], head[c]
        # A gap backwards is measured from the row that came before, not from the newest row. So it does not matter from
        # where rows are read again. If that row is included, the gap is found again; if not, the window begins here
        # anyway.
        if n > 0 and (t - ring_time[c, (h + n - 1) % length] > max_gap or last[c] - t > max_gap):
            n = 0
            flags[i] |= RESTARTED
            if last[c] - t > max_gap:
                anchor[c] = -1
        last[c] = t
        j = n
        while j > 0 and ring_time[c, (h + j - 1) % length] > t:
            j -= 1
        is_repeated = (
            step > 0 and j > 0 and ring_time[c, (h + j - 1) % length] == t
        )  # the step has its row: the later stays
        if is_repeated:
            j -= 1
        newer = n - j - is_repeated
        late = newer > reorder or (step > 0 and n > 0 and j == 0 and not is_repeated)
        late_run[c] = late_run[c] + 1 if late else 0
        if late_run[c] > max(reorder, SET_BACK_RUN):
            begin = first_offset(ring_offset, c, h, n)
            newest_time = ring_time[c, (h + n - 1) % length]
            high[c] = max(high[c], newest_time) if anchor[c] >= 0 else newest_time
            anchor[c] = min(anchor[c], begin) if anchor[c] >= 0 else begin
            in_order[c] = late_run[c] = n = j = newer = 0
            is_repeated = late = False
            flags[i] |= RESTARTED | SET_BACK
        if late:  # kept out of its neighbours' windows
            in_order[c] = 0
            flags[i] |= LATE | COLD
            out[i] = np.nan
            continue
        if anchor[c] >= 0 and n > 1:
            newest_time = ring_time[c, (h + n - 1) % length]
            if newest_time < high[c] < t and (t - newest_time) * (n - 1) > JUMP * (newest_time - ring_time[c, h]):
                n = j = 0
                flags[i] |= RESTARTED
        if anchor[c] >= 0 and not (is_repeated and newer == 0):
            in_order[c] = in_order[c] + 1 if newer == 0 and t > high[c] else 0
            if in_order[c] == length:
                anchor[c] = -1
        if step > 0 and j == n and n > 0:
            newest = (h + n - 1) % length
            missing = (t - ring_time[c, newest]) // step - 1
            # They get the offset of the row before the gap: reading back from that row finds the gap again.
            before = ring_offset[c, newest]
            for k in range(min(missing, length), 0, -1):
                if n == length:
                    h = (h + 1) % length
                    n -= 1
                slot = (h + n) % length
                rings[c, slot] = np.nan
                ring_time[c, slot] = t - k * step
                ring_offset[c, slot] = before
                n += 1
            j = n
        if not is_repeated:
            if n == length:
                h = (h + 1) % length
                n -= 1
                j -= 1
            for k in range(n, j, -1):
                to, previous = (h + k) % length, (h + k - 1) % length
                rings[c, to] = rings[c, previous]
                ring_time[c, to] = ring_time[c, previous]
                ring_offset[c, to] = ring_offset[c, previous]
            n += 1
        slot = (h + j) % length
        rings[c, slot] = x[i]
        ring_time[c, slot] = t
        if (
            not is_repeated
        ):  # else that of the row whose place it takes: read back from here, there would be no such step
            ring_offset[c, slot] = offset[i]
        head[c], count[c] = h, n
        if j + 1 < window:
            flags[i] |= COLD
            out[i] = np.nan
            continue
        for f in range(d):
            is_present = x[i, f] == x[i, f]
            total[f] = x[i, f] if is_present else 0
            n_seen[f] = is_present
        if n_seen.sum() < min_present:
            out[i] = np.nan
            continue
        for k in range(len(spans)):
            more[:] = 0
            more_seen[:] = 0
            for lag in range(spans[k, 0], spans[k, 1]):
                entry = rings[c, (h + j - lag) % length]
                for f in range(d):
                    v = entry[f]
                    if v == v:
                        more[f] += v
                        more_seen[f] += 1
            for f in range(d):
                in_both = n_seen[f] >= KNOWN * spans[k, 0] and more_seen[f] >= KNOWN * (spans[k, 1] - spans[k, 0])
                out[i, (k + 1) * d + f] = total[f] / n_seen[f] - more[f] / more_seen[f] if in_both else np.nan
                total[f] += more[f]
                n_seen[f] += more_seen[f]
        for f in range(d):
            out[i, f] = total[f] / n_seen[f] if n_seen[f] > 0 else np.nan
    return flags


@compiled
def oldest(owner, owner_partition, ring_offset, head, count, anchor, partition, earliest):
    """Return the smallest offset that the rings of a partition need, except for entities that reach below `earliest`.

    It is -1 if there is none. Also returns how many entities do reach below `earliest`.
    """
    result, beyond = np.int64(-1), 0
    for c in range(len(owner)):
        if owner[c] == 0 or owner_partition[c] != partition or count[c] == 0:
            continue
        # An anchor may be too far back although the ring is not: a window that is nearly right is better than none.
        lowest = anchor[c] if anchor[c] >= earliest else first_offset(ring_offset, c, head[c], count[c])
        if lowest < earliest:
            beyond += 1
        elif result < 0 or lowest < result:
            result = lowest
    return result, beyond

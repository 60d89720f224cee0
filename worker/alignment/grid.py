"""The compiled loops of alignment: readings into the cells of the grid, vectors out of them.

Grid point g is the time g * step. A reading belongs to the first grid point that is not before it: cell g. State is in
columns over all entities. Cell g of an entity lies at g modulo the number of cells, which is enough for those between
the watermark and the newest reading. `held` is the last reading of each tag from the cells before.
"""

# mypy: disable-error-code="no-untyped-def"
import numpy as np

from worker.native.jit import compiled, inlined

NONE = -1  # offset of no reading
LATE, RESTARTED = 1, 2  # flags of a reading
LATE_RUN = 4  # rounds of all tags that come late one after another show a clock that was set back
MOST_HELD = 60  # grid points in a row without a reading of any tag; after more, the grid goes on at the next reading
FLUSHED_ROW = 1 << 40  # from here on vectors are counted that no later record has closed


@compiled
def push(
    record,
    column,
    value,
    time,
    offset,
    codes,
    step,
    lateness,
    hold,
    cell_value,
    cell_time,
    cell_offset,
    held_value,
    held_time,
    held_offset,
    is_known,
    base,
    high,
    high_offset,
    last_offset,
    first_point,
    late_run,
    reach,
    flags,
    begin,
    out_x,
    out_record,
    out_row,
    out_time,
    out_since,
    n_out,
):
    """Take readings [n] from `begin` on, in the order of their arrival; append the vectors that they close.

    Returns how far it came, and how many vectors there are then: less than n if there is no room for another vector.

    `base` is the next grid point of each entity, `high` the time of its newest reading. A vector is closed by the first
    reading that is more than `lateness` newer than its grid point. Readings of cells that are closed are late: they
    change no vector that is made, but hold from then on. So `held` is the newest reading of a tag by its time, however
    the readings come, and reading back gives the same. A long run of late readings starts the entity anew.

    The row of a vector is its grid point, counted from the first that was open by the time of the readings before the
    record (`first_point`). So it follows from the records alone, whatever flushes there were. `out_since` leaves out
    readings that hold from more than `reach` records before.
    """
    n, n_cells, width = len(record), cell_value.shape[1], cell_value.shape[2]
    for i in range(begin, n):
        c, t = codes[i], time[i]
        cell = -(-t // step)
        begins = not is_known[c] or last_offset[c] != offset[i]  # a record
        if begins and is_known[c]:
            first_point[c] = (high[c] - lateness - 1) // step + 1
        last_offset[c] = offset[i]
        if is_known[c] and cell < base[c]:
            flags[i] |= LATE
            f = column[i]
            if f >= 0 and (held_offset[c, f] == NONE or held_time[c, f] <= t):
                held_value[c, f], held_time[c, f], held_offset[c, f] = value[i], t, offset[i]
            late_run[c] += t < high[c] - lateness  # else a flush has closed the cell
            if t > high[c]:
                high[c], high_offset[c] = t, offset[i]
            if late_run[c] <= LATE_RUN * width or not begins:  # else two vectors of a record could have one row
                continue
            is_known[c] = False
            flags[i] = RESTARTED
        if not is_known[c]:
            is_known[c] = True
            cell_offset[c] = NONE
            held_offset[c] = NONE
            base[c], high[c], high_offset[c] = -(-(t - lateness) // step), t, offset[i]
            first_point[c] = base[c]
        late_run[c] = 0
        if t > high[c]:
            closed = (t - lateness - 1) // step  # the last grid point that is more than the lateness before t
            newest = -(-high[c] // step)
            while base[c] <= closed:
                if base[c] > newest and closed - newest > MOST_HELD:
                    base[c] = closed + 1
                    break
                if n_out == len(out_x):
                    return i, n_out
                if _close(
                    c,
                    base[c],
                    step,
                    hold,
                    cell_value,
                    cell_time,
                    cell_offset,
                    held_value,
                    held_time,
                    held_offset,
                    offset[i] - reach,
                    offset[i],
                    out_x[n_out],
                    out_since[n_out : n_out + 1],
                ):
                    out_record[n_out] = record[i]
                    out_row[n_out] = base[c] - first_point[c]
                    out_time[n_out] = base[c] * step
                    n_out += 1
                base[c] += 1
            high[c], high_offset[c] = t, offset[i]
        f = column[i]
        if f >= 0:
            slot = cell % n_cells
            if cell_offset[c, slot, f] == NONE or cell_time[c, slot, f] <= t:  # of one time, the later one counts
                cell_value[c, slot, f] = value[i]
                cell_time[c, slot, f] = t
                cell_offset[c, slot, f] = offset[i]
    return n, n_out


@compiled
def flush(
    codes,
    step,
    hold,
    cell_value,
    cell_time,
    cell_offset,
    held_value,
    held_time,
    held_offset,
    base,
    high,
    last_offset,
    reach,
    out_x,
    out_record,
    out_row,
    out_time,
    out_since,
):
    """Close all cells of the entities that hold readings; return how many vectors that makes.

    `out_record` gets the index of the entity among the `codes`. The rows are counted from FLUSHED_ROW on in a way that
    does not depend on which cells are still open.
    """
    n_cells, n_out = cell_value.shape[1], 0
    for k in range(len(codes)):
        c = codes[k]
        newest = -(-high[c] // step)
        while base[c] <= newest:
            if _close(
                c,
                base[c],
                step,
                hold,
                cell_value,
                cell_time,
                cell_offset,
                held_value,
                held_time,
                held_offset,
                last_offset[c] - reach,
                last_offset[c],
                out_x[n_out],
                out_since[n_out : n_out + 1],
            ):
                out_record[n_out] = k
                out_row[n_out] = FLUSHED_ROW + n_cells - (newest - base[c])
                out_time[n_out] = base[c] * step
                n_out += 1
            base[c] += 1
    return n_out


@inlined
def _close(
    c,
    point,
    step,
    hold,
    cell_value,
    cell_time,
    cell_offset,
    held_value,
    held_time,
    held_offset,
    earliest,
    own_offset,
    x,
    since,
):
    """Write the vector [d] of a grid point and empty its cell; return whether it has any reading.

    `since` [1] is the least offset of what the vector is made of, not below `earliest`, and not above `own_offset`.
    """
    slot = point % cell_value.shape[1]
    has_reading = False
    since[0] = own_offset
    for f in range(len(x)):
        if cell_offset[c, slot, f] != NONE:
            held_value[c, f] = cell_value[c, slot, f]
            held_time[c, f] = cell_time[c, slot, f]
            held_offset[c, f] = cell_offset[c, slot, f]
            cell_offset[c, slot, f] = NONE
        if held_offset[c, f] != NONE and point * step - held_time[c, f] <= hold[f]:
            x[f] = held_value[c, f]
            if x[f] == x[f]:
                if held_offset[c, f] >= earliest:
                    since[0] = min(since[0], held_offset[c, f])
                has_reading = True
        else:
            x[f] = np.nan
    return has_reading


@compiled
def oldest(
    codes, step, lateness, hold, cell_offset, held_time, held_offset, base, high, high_offset, flushed_offset, earliest
):
    """Return the least offset from which reading back gives the entities' state; -1 for none.

    It is that of what is in the cells, of the readings that hold at the next grid point, and of the newest reading;
    also of what was the newest at a flush, for as long as the grid is ahead of the newest reading because of it.
    Without the readings that hold vectors only have gaps, so these count only from `earliest` on, as do entities of
    which all is in a vector. What is still open would be lost.
    """
    n_cells, result = cell_offset.shape[1], np.int64(-1)
    for k in range(len(codes)):
        c = codes[k]
        newest = -(-high[c] // step)
        is_open = base[c] <= newest
        offset = high_offset[c]
        if base[c] > (high[c] - lateness - 1) // step + 1:
            offset = min(offset, flushed_offset[c])
        if (is_open or offset >= earliest) and (result < 0 or offset < result):
            result = offset
        for f in range(held_offset.shape[1]):
            offset = held_offset[c, f]
            if offset >= earliest and base[c] * step - held_time[c, f] <= hold[f] and (result < 0 or offset < result):
                result = offset
        for point in range(base[c], newest + 1):
            slot = point % n_cells
            for f in range(held_offset.shape[1]):
                offset = cell_offset[c, slot, f]
                if offset >= 0 and (result < 0 or offset < result):
                    result = offset
    return result

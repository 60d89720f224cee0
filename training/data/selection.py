"""Chooses the window's rows for the fit, for the calibration of the threshold, and for the gate."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import structlog

from training.data import regime
from training.data.evidence import VectorFlags
from training.data.window import Window
from training.fitting.calibration_rows import SEEN
from training.rows.held_out import latest, stretches
from training.rows.thinning import spread_evenly
from worker.blocks.timestamps import iso
from worker.errors import NoModelError
from worker.native.arrays import Bools, Float64s, Int64s
from worker.settings import Settings, TrainingSettings
from worker.windows import max_gap

log = structlog.get_logger()
GATE: Final = 0.05  # of the rows, held out from calibration as well
OLD: Final = 0.25  # of the rows fitted to, from before a new regime; as many as since, after a mere drift
_CALIBRATE, _GATE = 1, 2
# A row within budget that lies in an incident is not normal if at least the share DENSE of its entity's rows, from
# AROUND rows before to AROUND rows after it, is over budget.
AROUND, DENSE = 10, 0.2
_UNEVEN: Final = 4.0  # times an entity's even share of the rows
# A row that was flagged before its regime was learned no longer counts as flagged if the present champion's p-value is
# above this.
_USUAL: Final = 0.01


class Learned(NamedTuple):
    """The plant's present regime, as a training has learned it.

    `begin` is when the regime began, and `until` up to when that training has seen it, in ms.
    """

    begin: int
    until: int


@dataclass(frozen=True)
class Selection:
    """What each of the window's rows is used for, [n] each.

    `regime` is the first row of the plant's present regime, if an earlier regime came before it. `learned` is passed on
    to the next training. `new` says that the champion does not know the regime. `drift` is the first row since a drift.
    """

    fit: Bools
    calibrate: Bools
    gate: Bools
    regime: int | None
    learned: Learned | None
    new: bool
    drift: int | None
    counts: dict[str, int]


def select(
    settings: Settings, rows: Window, p_values: Float64s | None = None, learned: Learned | None = None
) -> Selection:
    """Choose the rows to fit to, to calibrate on and to judge by. Raises NoModelError where too few are left.

    `p_values` [n] are the champion's. `learned` is the regime that the champion was trained on, if another one came
    before it.

    The fit uses rows within budget and outside of incidents, and rows that a person has dismissed. All rows except
    confirmed anomalies and rows of faulty sensors set the threshold. A new regime (regime.py) is fitted to in full,
    rows over budget included, together with some of the rows before it. It alone sets the threshold, also in later
    trainings, as long as the window reaches back to before the regime. After a drift that the champion can cope with,
    rows since the drift weigh as much as rows before it.
    """
    training = settings.training
    _check_length(settings, rows)
    normal = ~rows.is_known(VectorFlags.CONFIRMED | VectorFlags.FAULTY)
    regime, new = _regime(rows, normal, p_values, learned, training)
    if p_values is not None and learned is not None and not new:
        rows = _settled(rows, p_values, learned)
    quiet = _quiet(rows, normal, training.min_rows // 2)
    drift = None if new else _drifted(rows, training.min_rows)
    part = _parts(len(rows), training.holdout, [cut for cut in (regime, drift) if cut is not None])
    fit, calibrate, gate = (part == 0) & quiet, (part == _CALIBRATE) & normal, (part == _GATE) & normal
    row = np.arange(len(rows))
    if drift is not None:
        fit = _weighed(fit, row >= drift, 1.0)
        if (row >= drift).mean() >= training.regime_share and _promises(settings, int(calibrate[drift:].sum())):
            calibrate &= row >= drift
    if regime is not None:
        if new:
            fit |= (part == 0) & normal & (row >= regime)
        fit = _weighed(fit, row >= regime, OLD / (1 - OLD))
        calibrate, gate = calibrate & (row >= regime), gate & (row >= regime)
    fit = _evened(fit, rows.entity)
    if fit.sum() < training.min_rows // 4 or calibrate.sum() < 2 or not gate.any():
        raise _too_few(rows, fit, normal, quiet)
    uses = {"fitted": fit, "held_out": calibrate, "gate": gate}
    counts = {name: int(rows.is_known(flag).sum()) for name, flag in _KNOWN_AS.items()}
    counts |= {name: int(use.sum()) for name, use in uses.items()}
    if new and regime is not None:
        learned = Learned(int(rows.time[regime]), int(rows.time[-1]))
    return Selection(
        fit=fit,
        calibrate=calibrate,
        gate=gate,
        regime=regime,
        learned=None if regime is None else learned,
        new=new,
        drift=drift,
        counts=counts,
    )


def _check_length(settings: Settings, rows: Window) -> None:
    """Raise NoModelError if the window has too few rows."""
    training = settings.training
    if len(rows) < training.min_rows:
        hint = ""
        if rows.cold > len(rows):  # a meter that sends once an hour never fills a window, if an hour's pause ends it
            gap = max_gap(settings.input, rows.interval)
            hint = f": an entity has to send more often than OFFNORMAL_INPUT__MAX_GAP, {gap:g} s"
        begin = f", the oldest of {iso(int(rows.time[0]))}" if len(rows) else ""
        raise NoModelError(
            f"only {len(rows)} rows in the last {training.lookback:g} s of {settings.topics.sensors}{begin}"
            f" ({rows.rejected}; {rows.cold} rows had no full window{hint}); {training.min_rows} are"
            " needed: wait, or change OFFNORMAL_TRAINING__MIN_ROWS or OFFNORMAL_TRAINING__LOOKBACK"
        )


def _too_few(rows: Window, fit: Bools, normal: Bools, quiet: Bools) -> NoModelError:
    """Return the error that says why too few rows are left to fit to."""
    out, excluded = int((~quiet & normal).sum()), int((~normal).sum())
    return NoModelError(
        f"too few rows are left to fit to: {int(fit.sum())} of {len(rows)}. {out} were published as anomalies or"
        f" lie in incidents, and {excluded} are confirmed anomalies or come from faulty sensors. If they show a new"
        " normal, dismiss them (`python -m worker label`), wait until they fill most of the window"
        " (OFFNORMAL_TRAINING__REGIME_SHARE), or look back less far (OFFNORMAL_TRAINING__LOOKBACK)"
    )


_KNOWN_AS: Final = {
    "named_anomalies": VectorFlags.NAMED,
    "in_incidents": VectorFlags.INCIDENT,
    "dismissed": VectorFlags.DISMISSED,
    "confirmed": VectorFlags.CONFIRMED,
    "faulty": VectorFlags.FAULTY,
}


def _quiet(rows: Window, normal: Bools, min_rows: int) -> Bools:
    """Return [n] the normal rows that are within budget and outside of incidents, or dismissed by a person."""
    dismissed = rows.is_known(VectorFlags.DISMISSED)
    quiet = normal & (~(rows.is_known(VectorFlags.NAMED) | _inside(rows)) | dismissed)
    if quiet.sum() >= min_rows:
        return quiet
    # A never-ending incident covers the window: fall back to the rows within budget.
    log.warning("incident_exclusion_dropped", rows=len(rows), outside=int(quiet.sum()))
    return normal & (~rows.is_known(VectorFlags.NAMED) | dismissed)


def _regime(
    rows: Window, normal: Bools, p_values: Float64s | None, learned: Learned | None, training: TrainingSettings
) -> tuple[int | None, bool]:
    """Return the first row of the plant's present regime (None without an earlier one), and whether it is new."""
    if p_values is None:
        return None, False
    # Rows that a person has dismissed count as normal already, so they are no sign of a new regime.
    unlabelled = np.where(rows.is_known(VectorFlags.DISMISSED), np.nan, p_values)
    begin = regime.begins(rows.x, unlabelled, normal, training.regime_share)
    if begin is not None and int(normal[begin:].sum()) >= training.min_rows:
        return begin, True
    before = 0 if learned is None else int(np.searchsorted(rows.time, learned.begin))
    return (before, False) if 0 < before < len(rows) else (None, False)


def _settled(rows: Window, p_values: Float64s, learned: Learned) -> Window:
    """Return the window without the NAMED flag of rows in the learned regime that the champion finds usual."""
    usual = (rows.time >= learned.begin) & (rows.time <= learned.until) & (p_values > _USUAL)
    return replace(rows, known=np.where(usual, rows.known & ~np.uint8(VectorFlags.NAMED), rows.known))


def _inside(rows: Window) -> Bools:
    """Return [n] whether a row lies in an incident and many of the rows around it are over budget.

    An incident that stays open because of an occasional vector over budget consists mostly of normal rows.
    """
    order = np.lexsort((rows.time, rows.entity))
    sums = np.concatenate(([0], np.cumsum(rows.is_known(VectorFlags.NAMED)[order])))
    index = np.arange(len(rows))
    low, high = np.maximum(index - AROUND, 0), np.minimum(index + AROUND + 1, len(rows))
    dense = np.empty(len(rows), bool)
    dense[order] = (sums[high] - sums[low]) >= DENSE * (high - low)
    return dense & rows.is_known(VectorFlags.INCIDENT)


def _promises(settings: Settings, rows: int) -> bool:
    """Return whether this many rows may be enough to keep to the false-alarm rate that is asked for."""
    return rows * settings.detection.false_alarm_rate >= SEEN


def _drifted(rows: Window, floor: int) -> int | None:
    """Return the first row since the last drift; None if the window does not contain it or too few rows follow."""
    if rows.drift is None:
        return None
    begin = int(np.searchsorted(rows.time, rows.drift))
    return begin if begin > 0 and len(rows) - begin >= floor else None


def _parts(n: int, holdout: float, cuts: Sequence[int]) -> Int64s:
    """Return [n] 0 for rows to fit to, else _CALIBRATE or _GATE.

    The held-out rows are the latest part of each of several stretches, as in training/rows/held_out.py. No stretch
    spans one of the `cuts`, where the plant changed.
    """
    part = np.zeros(n, np.int64)
    for piece in np.split(np.arange(n), sorted(set(cuts))):
        for stretch in stretches(piece, GATE):
            gate, held = latest(stretch, GATE), latest(stretch, holdout)
            part[stretch[max(len(stretch) - len(gate) - len(held), 0) :]] = _CALIBRATE
            part[gate] = _GATE
    return part


def _weighed(rows: Bools, now: Bools, ratio: float) -> Bools:
    """Thin out the rows before a change to at most `ratio` times the rows since it (`now`), spread evenly."""
    return (rows & now) | _thinned(rows & ~now, int((rows & now).sum() * ratio))


def _thinned(rows: Bools, keep: int) -> Bools:
    """Keep about `keep` of the rows, spread evenly; all, if they are fewer."""
    indices = np.flatnonzero(rows)
    if len(indices) <= keep:
        return rows
    kept = np.zeros(len(rows), bool)
    kept[indices[spread_evenly(len(indices), max(keep, 1))]] = True
    return kept


def _evened(rows: Bools, entity: Int64s) -> Bools:
    """Thin out entities that send more often, to a multiple of an even share."""
    counts = np.bincount(entity[rows])
    several = int((counts > 0).sum())
    if several < 2:
        return rows
    max_rows = max(int(_UNEVEN * rows.sum() / several), 1)
    evened = rows.copy()
    for code in np.flatnonzero(counts > max_rows).tolist():
        of_entity = rows & (entity == code)
        evened &= ~of_entity
        evened |= _thinned(of_entity, max_rows)
    return evened

"""The detectors of one stream of summaries: the model's as a whole, or one entity's.

- ADWIN (Bifet and Gavalda 2007) and KSWIN (Raab, Heusinger and Schleif 2020) on the summaries' mean p-value. Uniform
  p-values have the mean .5, and the reference tells how much it varies. Both detectors start with the p-values of
  training, so that a model that never fitted is detected as well.
- Page-Hinkley (Page 1954) on the share of vectors over budget.
- a CUSUM (Page 1954) for each feature on its mean reading, in both directions.

Summaries are long enough to be nearly independent (training/fitting/drift_reference.py). A detection has to last and to
be material: after the first detector fires, it must hold for some more summaries, and a mean p-value near .5 is no
drift.

tests/benchmarks/drift.py and docs/closed-loop.md give the error rates and delays of the detectors.
"""

from collections import deque
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import numpy as np

from worker.drift.summary import Summary
from worker.models.reference import Reference
from worker.native.arrays import Float64s

ADWIN_DELTA: Final = 1e-6
KSWIN_ALPHA: Final = 1e-8
KSWIN_WINDOW, KSWIN_RECENT = 100, 20
# For Page-Hinkley on the share over budget: the excess that is always allowed, and the limit for the sum of what is
# beyond it. A burst of anomalies for some twenty summaries is no drift.
RATE_ALLOWED, RATE_SUM = 0.01, 20.0
# For the CUSUM, in spreads of a summary's mean: the deviation that is always allowed, the most that one summary counts,
# and the limit for the sum. A shift is detected after 10 summaries at the earliest.
ALLOWED, MOST, SUM = 1.0, 2.0, 20.0
MATERIAL_SHIFT: Final = 0.3  # standard deviations of a reading: less is allowed for ever, too
MATERIAL_P: Final = 0.06  # the mean p-value's distance from .5 from which on the model is out of step
CONFIRM: Final = 3  # summaries after which a detection is checked again before it is reported
_SPREADS: Final = 16.0  # of the mean p-value: ADWIN wants values in [0, 1]
_REMEMBERED: Final = 2000


@dataclass(frozen=True)
class Detection:
    """What a detector has noticed; `first` is the time of the first summary that belongs to it."""

    detectors: list[str]
    first: int
    p_value: float
    over: float
    features: list[tuple[int, float]]  # those that have shifted, and how far off their mean is since
    latest: int


def load_river() -> Any:
    """Import river, which takes a second of CPU the first time: call it while the start waits for Kafka."""
    return import_module("river.drift")


class Monitor:
    """The detectors over one stream of summaries."""

    def __init__(self, reference: Reference, row: int | None):
        """Compare with `row` of the reference's locations; with None the features are not compared."""
        river = load_river()
        self._reference, self._row = reference, row
        trained_p_values = reference.p_values[-KSWIN_WINDOW:]
        self._p_spread = max(
            float(np.std(trained_p_values)) if len(trained_p_values) > 4 else 0.0, 0.29 / np.sqrt(reference.rows), 0.004
        )
        self._detectors: dict[str, Any] = {
            "adwin": river.ADWIN(delta=ADWIN_DELTA, clock=1),
            "kswin": river.KSWIN(alpha=KSWIN_ALPHA, window_size=KSWIN_WINDOW, stat_size=KSWIN_RECENT, seed=1),
            "page_hinkley": river.PageHinkley(
                min_instances=1, delta=RATE_ALLOWED, threshold=RATE_SUM, alpha=1.0, mode="up"
            ),
        }
        for p_value in np.resize(trained_p_values, KSWIN_WINDOW) if len(trained_p_values) else ():
            self._detectors["adwin"].update(self._scaled(float(p_value)))
            self._detectors["kswin"].update(self._scaled(float(p_value)))
        d = len(reference.deviation)
        self._sums = np.zeros((2, d))
        self._began = np.zeros((2, d), np.int64)  # summary with which the sum began to rise
        self._off = np.zeros((2, d))  # the means since, added up
        spread = np.maximum(reference.spread, 1e-9 * np.maximum(np.abs(reference.location[0]), 1e-30))
        self._unit = spread
        self._allowed = np.maximum(ALLOWED, MATERIAL_SHIFT * reference.deviation / spread)
        self._past: deque[Summary] = deque(maxlen=_REMEMBERED)
        self._seen = 0
        self._suspected: dict[str, int] = {}  # detector -> summary with which it begins
        self._confirm_at = 0

    def _scaled(self, p_value: float) -> float:
        return float(min(max(0.5 + (p_value - 0.5) / (_SPREADS * self._p_spread), 0.0), 1.0))

    def take(self, summary: Summary, deviations: Float64s | None = None) -> Detection | None:
        """Return a detection when it is confirmed, otherwise None.

        `deviations` [d] are the distances of the mean readings from their location. Without them they are computed from
        the summary.
        """
        self._past.append(summary)
        self._seen += 1
        if not np.isnan(summary.p_value):
            for name in ("adwin", "kswin"):
                self._update(name, self._scaled(summary.p_value), KSWIN_RECENT)
            self._update("page_hinkley", summary.over, int(RATE_SUM))
        if deviations is None and self._row is not None:
            deviations = summary.mean - self._reference.location[self._row]
        if deviations is not None:
            self._cusum(deviations)
        if not self._suspected or self._seen < self._confirm_at:
            return None
        noticed = self._confirmed()
        self._suspected.clear()
        return noticed

    def _update(self, name: str, value: float, recent: int) -> None:
        detector = self._detectors[name]
        width = getattr(detector, "width", 0)
        detector.update(value)
        if detector.drift_detected:
            since = int(detector.width) if name == "adwin" and detector.width < width else recent
            self._suspect(name, self._seen - min(since, self._seen))

    def _cusum(self, deviations: Float64s) -> None:
        z = np.nan_to_num(deviations / self._unit)
        for side, sign in enumerate((1, -1)):
            sums = self._sums[side]
            rises = np.minimum(sign * z - self._allowed, MOST)
            new = np.maximum(sums + rises, 0.0)
            begins = (sums == 0) & (new > 0)
            self._began[side, begins] = self._seen - 1
            self._off[side] = np.where(new > 0, np.where(begins, 0.0, self._off[side]) + np.nan_to_num(deviations), 0.0)
            self._sums[side] = np.minimum(new, 2 * SUM)
        if (self._sums > SUM).any():
            self._suspect("features", int(self._began[self._sums > SUM].min()))

    def _suspect(self, name: str, begin: int) -> None:
        if not self._suspected:
            self._confirm_at = self._seen + CONFIRM
        self._suspected.setdefault(name, begin)

    def _confirmed(self) -> Detection | None:
        """Return the part of the detection that still holds."""
        held = {}
        for name, begin in self._suspected.items():
            p_value, over = self._means(begin)
            shifted = self._shifted()
            if (
                (name == "features" and shifted)
                or (name == "page_hinkley" and over > RATE_ALLOWED)
                or (name in ("adwin", "kswin") and abs(p_value - 0.5) > MATERIAL_P)
            ):
                held[name] = begin
        if not held:
            return None
        first = min(held.values())
        p_value, over = self._means(first)
        since = self._summary(first).begin
        return Detection(
            detectors=list(held),
            first=since,
            p_value=p_value,
            over=over,
            features=self._shifted(),
            latest=self._past[-1].end,
        )

    def _shifted(self) -> list[tuple[int, float]]:
        shifts = []
        for side in (0, 1):
            for j in np.flatnonzero(self._sums[side] > SUM).tolist():
                shifts.append((j, float(self._off[side, j] / max(self._seen - self._began[side, j], 1))))
        return shifts

    def _summary(self, number: int) -> Summary:
        return self._past[max(number - (self._seen - len(self._past)), 0)]

    def _means(self, begin: int) -> tuple[float, float]:
        """Return the mean p-value and the share over budget, of the summaries from this one on."""
        recent = [
            s for s in list(self._past)[max(begin - (self._seen - len(self._past)), 0) :] if not np.isnan(s.p_value)
        ]
        if not recent:
            return 0.5, 0.0
        return float(np.mean([s.p_value for s in recent])), float(np.mean([s.over for s in recent]))

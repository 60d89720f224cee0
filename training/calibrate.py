"""Which held-out rows stand for normal operation when the threshold is set."""

import math

import numpy as np
import numpy.typing as npt


def explained_by(budget: float, scores: npt.NDArray[np.float64], named: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """[n] of held-out rows: True for those that calibrate.

    Rows published as anomalies (`named`) are not all anomalies: a false-alarm budget b names b n normal rows, and
    without these the tail, and with it the threshold, would shrink at each retraining. Nor are they all normal: with
    them, a frequent fault would lift the threshold over itself. So as many of them stay as the budget explains (its
    upper 97.5 % bound), those with the lowest scores; the rest goes.
    """
    n = len(scores)
    expected = budget * n
    allowed = math.ceil(expected + 2 * math.sqrt(expected))
    suspects = np.flatnonzero(named)
    kept = np.ones(n, bool)
    if len(suspects) > allowed:
        by_score = suspects[np.argsort(scores[suspects], kind="stable")]
        kept[by_score[allowed:]] = False
    return kept

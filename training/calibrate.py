"""Which held-out rows stand for normal operation when the threshold is set."""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

Float64s = npt.NDArray[np.float64]

SUSPECT_BELOW: Final = 0.1  # where the champion's p-value is above, a row is not looked at twice
_HALVINGS: Final = 20


def explained(p_values: Float64s, scores: Float64s) -> npt.NDArray[np.bool_]:
    """[n] of held-out rows: True for those that calibrate. `p_values` are the champion's, `scores` the new model's.

    Rows that were published as anomalies are not all anomalies: a false-alarm budget names some normal rows too, and
    without these the tail, and with it the threshold, would shrink at each retraining. Nor are they all normal: with
    them, a frequent fault would lift the threshold over itself. But the champion's p-values of normal rows are
    uniform: between p/2 and p lie n p/2 of them. Where a bin holds more than that and two standard deviations, the
    rest is something else, and goes, those first that the new model finds farthest out. NaN counts as explained.
    """
    kept = np.ones(len(scores), bool)
    for k in range(_HALVINGS):
        upper = SUSPECT_BELOW / 2**k
        lower = upper / 2 if k < _HALVINGS - 1 else 0.0
        suspects = np.flatnonzero((p_values > lower) & (p_values <= upper))
        expected = (upper - lower) * len(scores)
        allowed = math.ceil(expected + 2 * math.sqrt(expected))
        if len(suspects) > allowed:
            by_score = suspects[np.argsort(scores[suspects], kind="stable")]
            kept[by_score[allowed:]] = False
    return kept

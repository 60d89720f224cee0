"""The area under the ROC curve, by which the demo and evaluations compare scores with labels."""

import math
from typing import Any

import numpy.typing as npt
from scipy.stats import rankdata

from worker.native.arrays import Bools


def roc_auc(truth: Bools, score: npt.NDArray[Any]) -> float:
    """Return the area under the ROC curve by ranks (Mann-Whitney); ties count half. NaN if there is only one class."""
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return math.nan
    ranks = rankdata(score)
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))

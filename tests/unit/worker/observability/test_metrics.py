"""The metrics, against cases worked out by hand, and the VUS also against frozen values of aeon."""

import math
import time
from collections.abc import Callable

import numpy as np
import pytest

from training.evaluation.scores import (
    Labels,
    average_precision,
    best_f1,
    event_recall,
    false_alarm_rate,
    hit_rate,
    parse_interpretation,
    roc_auc,
    spans,
    vus,
)
from worker.native.arrays import Bools, Floats

pytestmark = pytest.mark.filterwarnings("error")  # what is undefined is NaN, and quietly so

BY_ROW = [roc_auc, average_precision, best_f1]
NAN = math.nan


def labels(text: str) -> Labels:
    return np.array([int(c) for c in text])


def scores(*values: float) -> Floats:
    return np.array(values)


def bools(text: str) -> Bools:
    return labels(text) > 0


def test_by_row() -> None:
    y, score = labels("1010"), scores(0.9, 0.8, 0.7, 0.1)
    # of the 4 pairs of a one and a zero only .7 and .8 are the wrong way round
    assert roc_auc(y, score) == pytest.approx(3 / 4)
    # recall rises by 1/2 at .9, precision 1, and by 1/2 at .7, precision 2/3
    assert average_precision(y, score) == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    # F1 from the top: 2/3, 1/2, then 2 x 2/3 x 1 / (2/3 + 1) = .8, then 2/3
    assert best_f1(y, score) == pytest.approx(0.8)


def test_equal_scores_tell_nothing() -> None:
    y, score = labels("1000"), np.ones(4)
    # flag all: precision 1/4, recall 1, so F1 = 2/4 / (5/4)
    got = [metric(y, score) for metric in BY_ROW]
    assert got == pytest.approx([0.5, 0.25, 0.4])


def test_best_f1_is_not_point_adjusted() -> None:
    # one row of a run of four: by row 2 x 1 x 1/4 / (5/4) = .4 at the top, 2 x 1/2 x 1 / (3/2) = 2/3 with all flagged;
    # point-adjusted it would be 1
    assert best_f1(labels("11110000"), scores(1, 0, 0, 0, 0, 0, 0, 0)) == pytest.approx(2 / 3)


def test_nan_is_the_least_anomalous() -> None:
    assert roc_auc(labels("1010"), scores(0.9, NAN, -5, NAN)) == 1
    assert roc_auc(labels("10"), scores(NAN, -1e300)) == 0
    assert vus(labels("0100"), scores(NAN, 2, 1, NAN)) == vus(labels("0100"), scores(0, 2, 1, 0))
    assert vus(labels("0100"), np.full(4, NAN)) == (0, 0)


def test_infinite_scores_have_their_order() -> None:
    assert roc_auc(labels("0101"), scores(-math.inf, 5, 4, math.inf)) == 1


@pytest.mark.parametrize("metric", [*BY_ROW, vus])
def test_only_the_order_of_scores_counts(metric: Callable[[Labels, Floats], object]) -> None:
    rng = np.random.default_rng(3)
    y, score = rng.integers(0, 2, 200), rng.normal(size=200)
    assert metric(y, score) == metric(y > 0, np.exp(score) - 7)


@pytest.mark.parametrize("metric", [*BY_ROW, vus])
@pytest.mark.parametrize("y", ["", "0", "0000"])
def test_without_positives_nothing_is_defined(metric: Callable[[Labels, Floats], object], y: str) -> None:
    assert np.isnan(metric(labels(y), np.arange(len(y), dtype=float))).all()


def test_without_negatives_the_roc_is_not_defined() -> None:
    y, score = labels("111"), scores(1, 3, 2)
    assert math.isnan(roc_auc(y, score)) and math.isnan(vus(y, score)[1]) and math.isnan(vus(y, np.ones(3))[1])
    assert average_precision(y, score) == best_f1(y, score) == vus(y, score)[0] == 1


@pytest.mark.parametrize("metric", [*BY_ROW, vus])
def test_lengths_must_agree(metric: Callable[[Labels, Floats], object]) -> None:
    with pytest.raises(ValueError):
        metric(labels("011"), scores(1, 2))


def test_vus_by_hand() -> None:
    y, score = labels("010"), scores(0.9, 0.5, 0.1)
    # Buffers 0 and 1 have no slope. At .9: recall 0, precision 0, fall-out 1/2; at .5: 1, 1/2, 1/2; at .1: 1, 1/3, 1.
    # PR: from (0, 0) to (1, 1/2) makes 1/4. ROC: 0 up to 1/2, then 1 from 1/2 to 1, makes 1/2.
    assert vus(y, score, 0) == vus(y, score, 1) == pytest.approx((1 / 4, 1 / 2))
    # Buffer 2: labels (h, 1, 0) with h = sqrt(1 - 1/2), one segment, positives p = (1 + (1 + h)) / 2, negatives 3 - p.
    # At .9: recall h / p, precision h, fall-out (1 - h) / (3 - p). At .5: recall (1 + h) / p > 1, so 1, precision
    # (1 + h) / 2, the same fall-out. At .1: recall 1.
    h = math.sqrt(1 / 2)
    p = 1 + h / 2
    pr = h / p * (1 + h) / 2 + (1 - h / p) * (h + (1 + h) / 2) / 2
    fall_out = (1 - h) / (3 - p)
    roc = fall_out * (h / p) / 2 + (1 - fall_out)
    assert vus(y, score, 2) == pytest.approx(((1 / 4 + 1 / 4 + pr) / 3, (1 / 2 + 1 / 2 + roc) / 3), abs=1e-12)


def test_vus_rewards_the_segments_found() -> None:
    # At 3: 1 of 2 rows and 1 of 2 segments, recall 1/2 x 1/2, precision 1; at 2, the false alarm: precision 1/2; at 1:
    # recall 1, precision 2/3. PR: 1/4 x 1 + 0 + 3/4 x (1/2 + 2/3) / 2. ROC, of 2 zeros: 1/4 up to fall-out 1/2, then 1.
    assert vus(labels("1010"), scores(3, 2, 1, 0), 0) == pytest.approx((1 / 4 + 7 / 16, 1 / 8 + 1 / 2))


# Frozen: `range_pr_vus_score` and `range_roc_vus_score` of aeon 1.6.0, which this project does not depend on.
AEON: list[tuple[str, list[float], int, float, float]] = [
    ("00011000", [0.1, 0.2, 0.6, 0.9, 0.3, 0.4, 0.2, 0.1], 4, 0.8297706029593617, 0.9029695286946098),
    # runs at both ends
    ("110000001", [0.9, 0.1, 0.2, 0.8, 0.3, 0.1, 0.2, 0.1, 0.7], 6, 0.6227735091737134, 0.6552161779468986),
    # slopes that meet and add up
    ("0010011000", [0.1, 0.5, 0.9, 0.4, 0.2, 0.6, 0.3, 0.7, 0.1, 0], 8, 0.8218219474832986, 0.8965892980789079),
    # ties
    ("0001100100", [0, 0, 1, 1, 2, 1, 0, 0, 0, 2], 3, 0.48709610658791425, 0.5007684197560005),
    # a run that is found last
    ("0110000010", [0.3, 0.9, 0.8, 0.2, 0.4, 0.1, 0.5, 0.6, 0, 0.1], 2, 0.6203046178560442, 0.5039602396181224),
    # all scores equal
    ("01100", [1, 1, 1, 1, 1], 4, 0.0, 0.0),
]


@pytest.mark.parametrize(("y", "score", "max_buffer", "pr", "roc"), AEON)
def test_vus_is_that_of_aeon(y: str, score: list[float], max_buffer: int, pr: float, roc: float) -> None:
    assert vus(labels(y), np.array(score, float), max_buffer) == pytest.approx((pr, roc), abs=1e-9)


def test_vus_of_a_long_set_takes_seconds_at_most() -> None:
    rng = np.random.default_rng(0)
    y = np.zeros(24_000, int)
    for k in range(10):
        y[1000 + 2200 * k :][: 100 + 20 * k] = 1
    started = time.perf_counter()
    pr, roc = vus(y, rng.normal(size=len(y)) + 3 * y)
    assert time.perf_counter() - started < 3
    assert 0.8 < pr < roc < 1


@pytest.mark.parametrize(
    ("y", "expected"),
    [("", []), ("000", []), ("111", [(0, 3)]), ("1001101", [(0, 1), (3, 5), (6, 7)]), ("010", [(1, 2)])],
)
def test_spans(y: str, expected: list[tuple[int, int]]) -> None:
    assert spans(labels(y)) == spans(bools(y)) == expected


def test_event_recall() -> None:
    # runs 0-1, 3 and 5-6; the first has one flagged row, the last two, the second none; row 2 is no part of any
    assert event_recall(labels("1101011"), bools("0110011")) == pytest.approx(2 / 3)
    assert math.isnan(event_recall(labels("00"), bools("10")))


def test_false_alarm_rate() -> None:
    # of the zeros, rows 2, 3 and 4, one is flagged; the flagged ones among the positives do not count
    assert false_alarm_rate(labels("11000"), bools("10010")) == pytest.approx(1 / 3)
    assert false_alarm_rate(labels("00"), bools("00")) == 0
    assert math.isnan(false_alarm_rate(labels("11"), bools("10")))


def test_interpretation_is_read_from_one_and_returned_from_zero() -> None:
    lines = ["4629-4688:9,10,11,13\n", "\n", "0-1:1\r\n"]
    smd = [(slice(4629, 4688), (8, 9, 10, 12)), (slice(0, 1), (0,))]
    assert parse_interpretation(lines, end_inclusive=False) == smd
    asd = [(slice(4629, 4689), (8, 9, 10, 12)), (slice(0, 2), (0,))]
    assert parse_interpretation(lines, end_inclusive=True) == asd


def test_interpretation_of_one_row_and_of_a_feature_named_twice() -> None:
    assert parse_interpretation(["5-5:2, 3,2"], end_inclusive=True) == [(slice(5, 6), (1, 2))]


@pytest.mark.parametrize(
    "line", ["5:1", "5-9", "5-9:", "5-9:1,", "5-9:a", "5-9:0,1", "9-5:1", "5-5:1", "-5-9:1", "# no"]
)
def test_a_malformed_interpretation_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="line 2 .*" + line):
        parse_interpretation(["1-2:3", line], end_inclusive=False)


# mean of the first two rows: .2 .4 .3 .1, so the ranking is 1, 2, 0, 3; the third row was not scored
CONTRIBUTIONS = np.array(
    [[0.1, 0.6, 0.2, 0.1], [0.3, 0.2, 0.4, 0.1], [NAN, NAN, NAN, NAN], [0.25, 0.25, 0.25, 0.25], [0, 0, 0, 1.0]]
)


@pytest.mark.parametrize(
    ("guilty", "percent", "expected"),
    [
        ((0, 1), 100, 1 / 2),  # the first two are 1 and 2
        ((0, 1), 150, 1.0),  # the first three are 1, 2 and 0
        ((0, 1), 50, 1 / 2),  # the first one is 1
        ((0, 1), 49, 0.0),  # floor(.98) = 0
        ((0, 2, 3), 150, 1.0),  # floor(4.5) = 4, all there are
        ((3,), 150, 0.0),  # floor(1.5) = 1
        ((1, 7), 200, 1 / 2),  # there is no feature 7
    ],
)
def test_hit_rate_of_one_segment(guilty: tuple[int, ...], percent: int, expected: float) -> None:
    assert hit_rate(CONTRIBUTIONS, [(slice(0, 3), guilty)], percent) == pytest.approx(expected)


def test_hit_rate_is_the_mean_over_segments_however_long() -> None:
    # 1/2 as above, 1 for the last row, its end cut, and 0 each where no row was scored or there is none
    segments = [(slice(0, 3), (0, 1)), (slice(4, 90), (3,)), (slice(2, 3), (1,)), (slice(70, 90), (1,))]
    assert hit_rate(CONTRIBUTIONS, segments, 100) == pytest.approx((1 / 2 + 1 + 0 + 0) / 4)


def test_hit_rate_of_equal_contributions_takes_the_first_features() -> None:
    assert hit_rate(CONTRIBUTIONS, [(slice(3, 4), (0,))], 100) == 1
    assert hit_rate(CONTRIBUTIONS, [(slice(3, 4), (1,))], 100) == 0


def test_hit_rate_without_segments_is_not_defined() -> None:
    assert math.isnan(hit_rate(CONTRIBUTIONS, [], 100))

"""Which rows of the window teach, and which are held out."""

import numpy as np
import pytest

from training.job import _split
from training.window import Window
from worker.errors import NoModelError
from worker.settings import Settings, TrainingSettings


def window(n: int, named: list[int]) -> Window:
    flags = np.zeros(n, bool)
    flags[named] = True
    zeros = np.zeros(n, np.int64)
    return Window(("a",), np.zeros((n, 1), np.float32), zeros, flags, zeros, (), n, 0, 0, {})


SETTINGS = Settings(training=TrainingSettings(min_rows=100, holdout=0.2))


def test_published_anomalies_do_not_teach_wherever_they_lie_but_stay_held_out() -> None:
    named = list(range(500, 1000, 7))
    usable, held = _split(SETTINGS, window(1000, named))
    assert not (usable & held).any()
    assert not usable[named].any()
    assert (usable | held)[[i for i in range(1000) if i not in named]].all(), "nothing else is left out"
    assert held[named].any()
    assert held.sum() == 200


def test_too_few_rows_and_too_many_anomalies_are_told_apart() -> None:
    with pytest.raises(NoModelError, match="99 rows"):
        _split(SETTINGS, window(99, []))
    with pytest.raises(NoModelError, match="were published as anomalies"):
        _split(SETTINGS, window(1000, list(range(990))))

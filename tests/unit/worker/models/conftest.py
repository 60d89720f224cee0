"""Fixtures of the tests of kinds."""

import copy
from collections.abc import Iterator

import pytest
import torch

from tests.unit.worker.models.trained_kinds import trained
from worker.models import KINDS, Autoencoder, Detector


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def detector(kind: str) -> Detector:
    return trained(kind).detector


@pytest.fixture
def autoencoder(kind: str) -> Autoencoder:
    """A copy, to do anything with."""
    return copy.deepcopy(trained(kind).detector.module.autoencoder)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Models so small are slower with several, and much slower where others compute, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

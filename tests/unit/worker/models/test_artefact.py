"""The artefact: whole or refused, with the reason."""

import hashlib
import json
import random
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load as load_tensors, save as save_tensors

from worker.errors import ArtefactError, SettingsError
from worker.models import Artefact
from worker.serving.device import pick_device
from worker.serving.model_swap import ResidentModels
from worker.settings import DetectionSettings, Settings

Change = Callable[[dict[str, torch.Tensor], dict[str, object]], None]


def forged(data: bytes, change: Change) -> bytes:
    """The artefact with a change, under a digest that is right."""
    size = int.from_bytes(data[:8], "little")
    told = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["offnormal"])
    tensors = load_tensors(data)
    change(tensors, told["card"])
    zeros = "0" * 64
    new = save_tensors(tensors, metadata={"offnormal": json.dumps({"digest": zeros, "card": told["card"]})})
    return new.replace(zeros.encode(), hashlib.sha256(new).hexdigest().encode(), 1)


def test_round_trip(artefact: Artefact) -> None:
    data = artefact.dump()
    back = Artefact.load(data)
    assert back.card == artefact.card
    assert back.dump() == data
    x = artefact.probe_x * 3
    assert torch.equal(back.detector.score(x), artefact.detector.score(x))
    assert back.detector.calibration.threshold(1e-3) == artefact.detector.calibration.threshold(1e-3)


def test_an_unchanged_forgery_loads(artefact: Artefact) -> None:
    """Or the tests below would prove nothing."""
    Artefact.load(forged(artefact.dump(), lambda tensors, card: None))


def test_every_flipped_bit_is_noticed(artefact: Artefact) -> None:
    data, draw = artefact.dump(), random.Random(1)
    for _ in range(400):
        mutated = bytearray(data)
        mutated[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        with pytest.raises(ArtefactError):
            Artefact.load(bytes(mutated))


def test_cut_off_or_garbage(artefact: Artefact) -> None:
    data = artefact.dump()
    for bad in (b"", b"x", data[:7], data[:100], data[: len(data) // 2], data[:-1], data + b"x", b"\xff" * 1000):
        with pytest.raises(ArtefactError):
            Artefact.load(bad)


def test_another_digest(artefact: Artefact) -> None:
    data = artefact.dump()
    digest = re.search(rb"[0-9a-f]{64}", data)
    assert digest
    with pytest.raises(ArtefactError, match="digest"):
        Artefact.load(data.replace(digest[0], b"a" * 64))


def _nan(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    tensors["module.whitening.root"][0, 0] = torch.nan


def _probe(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    tensors["probe.scores"] = tensors["probe.scores"] * 1.1


def _without(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    del tensors["module.scaler.scale"]


def _newer(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    card["format_version"] = 99


def _huge(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    card["architecture"] = {"width": 4, "sizes": [10**9]}


def _kind(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    card["kind"] = "os.system"


def _features(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    card["features"] = ["a", "b"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_nan, "not finite"),
        (_probe, "probe"),
        (_without, "do not fit"),
        (_newer, "99 is newer"),
        (_huge, "do not fit"),
        (_kind, "unknown kind"),
        (_features, "features"),
    ],
)
def test_a_forgery_with_a_right_digest_is_refused(artefact: Artefact, change: Change, reason: str) -> None:
    with pytest.raises(ArtefactError, match=reason):
        Artefact.load(forged(artefact.dump(), change))


def test_the_threshold_follows_the_budget(artefact: Artefact) -> None:
    thresholds = [
        ResidentModels(Settings(device="cpu", detection=DetectionSettings(false_alarm_rate=rate)))
        .load(artefact.dump())
        .threshold
        for rate in (0.1, 0.01, 1e-3)
    ]
    assert thresholds == sorted(thresholds)
    assert thresholds[1] == artefact.detector.calibration.threshold(0.01)


def test_a_device_that_is_not_there_is_told() -> None:
    with pytest.raises(SettingsError, match="cuda:99"):
        pick_device("cuda:99")


def _no_probe(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    del tensors["probe.scores"]


def _float64(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    tensors["module.whitening.root"] = tensors["module.whitening.root"].double()


def _tail(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    tensors["calibration.tail"][2] = 0


def _survival(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    tensors["calibration.survival"] = tensors["calibration.survival"].flip(0).contiguous()


def _twice(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    card["features"] = ["a", "a", "b", "c"]


def _words(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    card["format_version"] = "99"


@pytest.mark.parametrize("change", [_no_probe, _float64, _tail, _survival, _twice, _words])
def test_nothing_but_an_artefact_error_comes_of_a_forgery(artefact: Artefact, change: Change) -> None:
    with pytest.raises(ArtefactError):
        Artefact.load(forged(artefact.dump(), change))


@pytest.mark.parametrize("interval", [float("inf"), float("nan"), 10**400, 1e16, -1, "3600", None, [1]])
def test_an_interval_that_is_none_is_unknown(artefact: Artefact, interval: Any) -> None:
    card = artefact.card
    assert card.model_copy(update={"trained_on": {"interval": interval}}).interval == 0
    assert card.model_copy(update={"trained_on": {}}).interval == 0
    assert card.model_copy(update={"trained_on": {"interval": 60}}).interval == 60

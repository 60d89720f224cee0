"""The artefact, further: bit for bit, cut by cut, and what is forged under a digest that is right."""

import contextlib
import json
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.models import FEATURES, make_artefact, normal_rows
from tests.unit.worker.models.test_artefact import Change, forged
from worker.errors import ArtefactError
from worker.models import Artefact
from worker.models.artefact import PROBE_ROWS, read_card
from worker.models.calibration import RATES


@pytest.fixture(scope="module")
def data(artefact: Artefact) -> bytes:
    return artefact.dump()


def header_end(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def test_a_loaded_artefact_scores_and_judges_as_the_one_written(artefact: Artefact, data: bytes) -> None:
    back = Artefact.load(data)
    x = normal_rows(200, np.random.default_rng(1)) * 4
    x[::9, 2] = np.nan
    x_ = torch.from_numpy(x)
    assert torch.equal(back.detector.score(x_), artefact.detector.score(x_))
    np.testing.assert_array_equal(back.detector.p_value(x_), artefact.detector.p_value(x_))
    assert (back.card, back.detector.features) == (artefact.card, FEATURES)


def test_writing_twice_gives_the_same_bytes(artefact: Artefact, data: bytes) -> None:
    assert artefact.dump() == data


def test_the_card_can_be_read_without_the_tensors(artefact: Artefact, data: bytes) -> None:
    assert read_card(data) == artefact.card


def test_the_probe_is_spread_over_the_rows(artefact: Artefact) -> None:
    rows = np.arange(400, dtype=np.float32).reshape(100, 4)
    probe = Artefact.make(artefact.card, artefact.detector, rows).probe_x.numpy()
    assert len(probe) == PROBE_ROWS
    assert probe[0, 0] == 0 and probe[-1, -1] == 399


@pytest.mark.parametrize("place", ["size", "header", "digest", "tensors"])
def test_a_flipped_bit_anywhere_is_refused(data: bytes, place: str) -> None:
    draw, end, digest = random.Random(place), header_end(data), json_digest(data)
    where = {
        "size": range(8),
        "header": range(8, end),
        "digest": range(data.index(digest), data.index(digest) + 64),
        "tensors": range(end, len(data)),
    }[place]
    for _ in range(100):
        mutated = bytearray(data)
        mutated[draw.choice(where)] ^= 1 << draw.randrange(8)
        with pytest.raises(ArtefactError):
            Artefact.load(bytes(mutated))


def json_digest(data: bytes) -> bytes:
    told = json.loads(json.loads(data[8 : header_end(data)])["__metadata__"]["offnormal"])
    return str(told["digest"]).encode()


def test_an_artefact_cut_off_anywhere_is_refused(data: bytes) -> None:
    for length in [*range(20), *range(20, len(data), len(data) // 150), len(data) - 1]:
        with pytest.raises(ArtefactError):
            Artefact.load(data[:length])


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\0" * 8,
        b"\0" * 1000,
        b"\xff" * 1000,
        b"PK\x03\x04" + bytes(100),
        b"\x80\x04\x95" + bytes(100),
        (2).to_bytes(8, "little") + b"{}",
        (2**63).to_bytes(8, "little") + b"{}",
        (4).to_bytes(8, "little") + b"null",
        (20).to_bytes(8, "little") + b'{"__metadata__": {}}',
    ],
)
def test_garbage_is_refused_in_words(garbage: bytes) -> None:
    with pytest.raises(ArtefactError, match="no model artefact|digest"):
        Artefact.load(garbage)


def test_the_digest_of_another_artefact_is_refused(data: bytes) -> None:
    other = forged(data, lambda tensors, card: card.update(seed=77))
    assert json_digest(other) != json_digest(data)
    with pytest.raises(ArtefactError, match="digest"):
        Artefact.load(data.replace(json_digest(data), json_digest(other)))


def test_a_digest_of_zeros_is_refused(data: bytes) -> None:
    with pytest.raises(ArtefactError, match="digest"):
        Artefact.load(data.replace(json_digest(data), b"0" * 64))


def test_a_newer_format_is_refused_by_name_even_if_the_card_has_grown(data: bytes) -> None:
    newer = forged(data, lambda tensors, card: card.update(format_version=99, something_new=1))
    with pytest.raises(ArtefactError, match="format version 99 is newer than this program's"):
        Artefact.load(newer)


def test_a_card_with_an_unknown_field_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(ArtefactError, match="something_new"):
        Artefact.load(forged(data, lambda tensors, card: card.update(something_new=1)))


def test_a_card_without_a_field_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(ArtefactError, match="features"):
        Artefact.load(forged(data, lambda tensors, card: card.pop("features")))  # type: ignore[arg-type]


MODULE = [
    "module.autoencoder.encoder.0.weight",
    "module.autoencoder.decoder.2.bias",
    "module.scaler.location",
    "module.scaler.scale",
    "module.whitening.mean",
    "module.whitening.root",
]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [*MODULE, "calibration.body", "calibration.survival", "calibration.tail"])
def test_a_number_that_is_none_is_refused_by_name(data: bytes, name: str, value: float) -> None:
    def change(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
        tensors[name].view(-1)[0] = value

    with pytest.raises(ArtefactError, match=f"{name} is not finite"):
        Artefact.load(forged(data, change))


@pytest.mark.parametrize("name", MODULE)
def test_a_tensor_of_another_shape_is_refused(data: bytes, name: str) -> None:
    def change(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
        tensors[name] = torch.cat([tensors[name], tensors[name]])

    with pytest.raises(ArtefactError, match="do not fit"):
        Artefact.load(forged(data, change))


@pytest.mark.parametrize("name", MODULE)
def test_a_weight_that_is_another_is_found_by_the_probe(data: bytes, name: str) -> None:
    def change(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
        tensors[name] = tensors[name] * 1.5 + 0.1

    with pytest.raises(ArtefactError, match="probe"):
        Artefact.load(forged(data, change))


def _extra(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    tensors["module.extra"] = torch.zeros(1)


def _one_probe_score(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    tensors["probe.scores"][5] += 0.5


def _short_probe(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    tensors["probe.scores"] = tensors["probe.scores"][:-1].clone()


def _no_probe_rows(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    tensors["probe.x"], tensors["probe.scores"] = torch.empty(0, 4), torch.empty(0)


def _unscored_probe(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    tensors["probe.x"].fill_(torch.nan)
    tensors["probe.scores"].fill_(torch.nan)


def _unordered(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    tensors["calibration.body"] = tensors["calibration.body"].flip(0).contiguous()


def _no_body(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    for name in ("calibration.body", "calibration.survival"):
        tensors[name] = tensors[name][:0].clone()


def _long_tail(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    tensors["calibration.tail"] = torch.ones(4, dtype=torch.float64)


def _width(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    card["architecture"] = {"width": 5, "sizes": [16, 2]}


def _argument(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
    card["architecture"] = {"width": 4, "sizes": [16, 2], "shell": "id"}


@pytest.mark.parametrize(
    "change",
    [
        _extra,
        _one_probe_score,
        _short_probe,
        _no_probe_rows,
        _unscored_probe,
        _unordered,
        _no_body,
        _long_tail,
        _width,
        _argument,
    ],
)
def test_a_forgery_under_a_right_digest_is_refused(data: bytes, change: Change) -> None:
    with pytest.raises(ArtefactError):
        Artefact.load(forged(data, change))


BOUNDS, SHARES, QUANTILES = "calibration.upper", "module.incomplete.shares", "module.incomplete.quantiles"


@pytest.mark.parametrize(
    ("name", "forge"),
    [
        (BOUNDS, lambda t: torch.linspace(9, 1, len(RATES), dtype=torch.float64)),
        (BOUNDS, lambda t: torch.linspace(1, 9, len(RATES), dtype=torch.complex64)),
        (BOUNDS, lambda t: torch.ones(3, dtype=torch.float64)),
        (SHARES, lambda t: t.flip(0)),
        (SHARES, lambda t: t[:, None]),
        (SHARES, lambda t: torch.linspace(0, 1, 1000)),
        (QUANTILES, torch.ones_like),
        (QUANTILES, lambda t: t[:1]),
        (QUANTILES, lambda t: t[:, :1]),
        (QUANTILES, lambda t: torch.linspace(1, 2, 24).repeat(1000, 1)),
    ],
)
def test_forged_bounds_and_quantiles_are_refused(data: bytes, name: str, forge: Callable[..., torch.Tensor]) -> None:
    def change(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
        tensors[name] = forge(tensors.get(name)).contiguous()

    with pytest.raises(ArtefactError):
        Artefact.load(forged(data, change))


@pytest.mark.parametrize(
    "architecture",
    [
        {"width": 4, "sizes": [1] * 100_000},
        {"width": 4, "sizes": [1] * 65},
        {"width": 4, "sizes": [16, 2], "noise": [0.1] * 100_000},
        {"width": 4, "sizes": [[1] * 10, [2]]},
        {"width": 4, "sizes": 2},
        {"width": 4, "sizes": [2**62, 2]},
        {"width": 4, "sizes": [-1]},
        {"width": 4, "sizes": [None]},
        {"width": 4, "sizes": [{}]},
        {"width": 4, "sizes": "16"},
    ],
)
def test_an_architecture_is_bounded_before_anything_is_made_of_it(data: bytes, architecture: dict[str, Any]) -> None:
    bad = forged(data, lambda tensors, card: card.update(architecture=architecture))
    began = time.process_time()
    with pytest.raises(ArtefactError):
        Artefact.load(bad)
    assert time.process_time() - began < 1


def test_more_tensors_than_a_model_has_are_refused(data: bytes) -> None:
    def many(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
        tensors.update({f"module.autoencoder.extra.{k}": torch.empty(0) for k in range(2000)})

    with pytest.raises(ArtefactError, match="more than a model has"):
        Artefact.load(forged(data, many))


DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.bool, torch.complex64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*MODULE, "probe.x", "probe.scores"])
def test_numbers_of_another_kind_are_refused(data: bytes, name: str, dtype: torch.dtype) -> None:
    def change(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
        tensors[name] = tensors[name].to(dtype)

    with pytest.raises(ArtefactError, match=f"{name} is of {dtype}"):
        Artefact.load(forged(data, change))


@pytest.mark.parametrize("of", ["module.", "probe.", "calibration.", "reference.", ""])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.uint8], ids=str)
def test_whatever_kind_all_numbers_are_of_nothing_else_is_raised(data: bytes, of: str, dtype: torch.dtype) -> None:
    def change(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
        for name in tensors:
            if name.startswith(of):
                tensors[name] = tensors[name].to(dtype)

    with contextlib.suppress(ArtefactError):
        Artefact.load(forged(data, change))


@pytest.mark.parametrize(
    "change",
    [
        {"parent": "\ud800"},
        {"features": ["a\ud800", "b", "c", "d"]},
        {"name": "\udfff"},
        {"quality": {"why": ["\udc80"]}},
        {"trained_on": {"\ud800": 1}},
    ],
)
def test_half_of_a_character_in_a_card_is_refused(data: bytes, change: dict[str, Any]) -> None:
    """What is made of it could not be written."""
    with pytest.raises(ArtefactError, match="text that is not valid Unicode"):
        read_card(forged(data, lambda tensors, card: card.update(change)))


NAMED = [b"[" * 100_000, b'[500, ["\\ud800", "b"]]', b"7", b"[1, 2]", b'["x", []]', b"\xff", b"", b"null"]


@pytest.mark.parametrize("named", NAMED)
def test_a_reference_of_nonsense_is_refused(of_a_fleet: bytes, named: bytes) -> None:
    def change(tensors: dict[str, torch.Tensor], card: dict[str, object]) -> None:
        tensors["reference.named"] = torch.tensor(list(named), dtype=torch.uint8)
        for name in ("location", "deviation", "spread", "present", "still"):
            tensors.setdefault(f"reference.{name}", torch.ones(3, 4))
        tensors.setdefault("reference.p_values", torch.ones(3))

    with pytest.raises(ArtefactError):
        Artefact.load(forged(of_a_fleet, change))


@pytest.fixture(scope="module")
def of_a_fleet() -> bytes:
    return make_artefact(seed=0, window=4, entities=("a", "b")).dump()


def test_windows_and_entities_come_back(of_a_fleet: bytes) -> None:
    back = Artefact.load(of_a_fleet)
    assert back.dump() == of_a_fleet
    assert back.detector.window == 4
    assert back.detector.entities is not None and back.detector.entities.names == ("a", "b")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t, c: c.update(entities=["a"]), "entities"),
        (lambda t, c: c.update(entities=["a", "a"]), "entities"),
        (lambda t, c: t.update({"entities.ratio": -t["entities.ratio"]}), "scale is not positive"),
        (lambda t, c: t.update({"entities.location": t["entities.location"][:, :2].contiguous()}), "entities"),
        (lambda t, c: t.pop("entities.ratio"), "tensors do not fit"),
        (lambda t, c: t["entities.location"].fill_(float("nan")), "not finite"),
        (lambda t, c: c.update(window=8), "columns"),
        (lambda t, c: c.update(window=0), "window"),
        (lambda t, c: c.update(window=10**9), "window"),
    ],
)
def test_a_forged_window_or_fleet_is_refused(of_a_fleet: bytes, change: Change, told: str) -> None:
    with pytest.raises(ArtefactError, match=told):
        Artefact.load(forged(of_a_fleet, change))


def test_artefacts_of_the_format_before_windows_are_still_read(artefact: Artefact, data: bytes) -> None:
    def older(tensors: dict[str, torch.Tensor], card: dict[str, Any]) -> None:
        card.update(format_version=2)
        card.pop("entities")
        for name in ("module.incomplete.shares", "module.incomplete.quantiles"):
            tensors.pop(name)
        tensors["calibration.tail"] = torch.cat((tensors["calibration.tail"], torch.tensor([0.02]).double()))

    detector = Artefact.load(forged(data, older)).detector
    assert detector.entities is None and detector.module.incomplete is None
    assert detector.calibration.promise(1e-4).threshold == detector.calibration.threshold(1e-4)

"""The model artefact: one safetensors file.

It holds weights, scaler, whitening, attribution, calibration, a probe, the reference for drift, the data of a
training's report, and a model card.

No code travels in it. `load` refuses, with the reason, whatever is damaged, too new, or does not give the scores that
its trainer got.
"""

import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors, save as save_tensors

from worker.errors import ArtefactError
from worker.models.attribution import Attribution
from worker.models.calibration import RATES, Calibration
from worker.models.detector import Detector, ScoringModule
from worker.models.entities import EntityScaler
from worker.models.incomplete import IncompleteScores
from worker.models.kinds import KINDS
from worker.models.reference import Reference
from worker.models.scaler import Scaler
from worker.models.usual import Usual
from worker.models.wavelet import blocks
from worker.models.whitening import Whitening
from worker.native.arrays import Float32s

FORMAT_VERSION: Final = 5
OLDEST_READ: Final = 2  # no windows, no entities; 3 has no reference; 4 does not fill in missing readings
_FILLS_IN: Final = 5
PROBE_ROWS: Final = 32
# Scores on another device or another BLAS differ in the last bits; a wrong weight differs in the first.
PROBE_TOLERANCE: Final = 1e-3
_NO_DIGEST: Final = "0" * 64
# Each layer takes Python objects, whatever its size; a small file must not create many of them.
_MOST_TENSORS: Final = 1024
_LONGEST_INTERVAL: Final = 1e8  # seconds
_MOST_LAYERS: Final = 64  # that the architecture names
_MOST_LEVELS, _MOST_QUANTILES = 16, 256
_FLOAT32: Final = ("module.", "probe.", "entities.", "usual.")


class ModelCard(BaseModel):
    """An artefact's metadata: what the model is, what it was made from, and how good it looked."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    format_version: int = FORMAT_VERSION
    name: str
    version: str
    kind: str
    architecture: dict[str, Any]
    features: tuple[str, ...]
    window: int = Field(1, ge=1, le=1024)
    entities: tuple[str, ...] = Field((), description="those with a scaler of their own")
    created: str
    parent: str | None = None
    rows: dict[str, int] = Field(description="rows by use: fitted, calibrated, left out, ...")
    trained_on: dict[str, Any] = Field(description="topic, offsets by partition, and times of the training window")
    quality: dict[str, Any] = Field(description="losses, the false-alarm rate that can be promised, ...")
    seed: int = 0
    libraries: dict[str, str] = {}

    @property
    def interval(self) -> float:
        """Return the seconds between two vectors of the slowest entity that training looked at; 0 if unknown."""
        interval = self.trained_on.get("interval", 0.0)
        return float(interval) if isinstance(interval, int | float) and 0 <= interval <= _LONGEST_INTERVAL else 0.0

    @property
    def holds(self) -> tuple[float, ...]:
        """Return how long a reading of each feature holds, in seconds; empty if training did not learn it."""
        holds = self.trained_on.get("holds")
        if not isinstance(holds, list) or len(holds) != len(self.features):
            return ()
        is_valid = all(isinstance(hold, int | float) and 0 < hold <= _LONGEST_INTERVAL for hold in holds)
        return tuple(map(float, holds)) if is_valid else ()


@dataclass(frozen=True, eq=False)
class Artefact:
    """A model with its card, and rows with their scores to check it by."""

    card: ModelCard
    detector: Detector
    probe_x: torch.Tensor
    probe_scores: torch.Tensor
    reference: Reference | None = None  # without it drift is not looked for
    report: bytes | None = None  # training/report/report.py reads it; nothing else looks into it

    @classmethod
    def make(
        cls,
        card: ModelCard,
        detector: Detector,
        rows: Float32s,
        reference: Reference | None = None,
    ) -> "Artefact":
        """Make an artefact, with a probe: some of `rows` [n, D], spread evenly, and their scores."""
        picked = rows[np.unique(np.linspace(0, len(rows) - 1, PROBE_ROWS).astype(int))]
        probe_x = torch.from_numpy(np.ascontiguousarray(picked))
        return cls(card, detector, probe_x, detector.score(probe_x), reference)

    def dump(self, key: SecretStr | None = None) -> bytes:
        """Return the file's bytes, signed if there is a key.

        The digest is the SHA-256 of the whole file with zeros in the places of digest and signature. The signature is
        the HMAC-SHA256 of the digest.
        """
        calibration = self.detector.calibration
        tensors = {
            **{f"module.{name}": t.contiguous() for name, t in self.detector.module.state_dict().items()},
            "calibration.body": torch.from_numpy(calibration.body),
            "calibration.survival": torch.from_numpy(calibration.survival),
            "calibration.tail": torch.tensor(
                [calibration.beyond, calibration.xi, calibration.sigma], dtype=torch.float64
            ),
            "probe.x": self.probe_x,
            "probe.scores": self.probe_scores,
        }
        if calibration.upper is not None:
            tensors["calibration.upper"] = torch.from_numpy(calibration.upper)
        if self.detector.usual is not None:
            tensors |= {f"usual.{name}": torch.from_numpy(getattr(self.detector.usual, name)) for name in _USUAL}
        if self.detector.entities is not None:
            tensors |= {f"entities.{name}": t for name, t in self.detector.entities.state_dict().items()}
        if self.reference is not None:
            tensors |= {f"reference.{name}": torch.from_numpy(getattr(self.reference, name)) for name in _REFERENCE}
            # Names of machines are stored as data: the metadata is read by every listing of versions.
            named = json.dumps([self.reference.rows, list(self.reference.entities)]).encode()
            tensors["reference.named"] = torch.frombuffer(bytearray(named), dtype=torch.uint8)
        if self.report:
            tensors[_REPORT] = torch.frombuffer(bytearray(self.report), dtype=torch.uint8)
        # Use a single entry, since safetensors writes several entries in a different order each time.
        signature = {} if key is None else {"signature": _NO_DIGEST}
        metadata = json.dumps({"digest": _NO_DIGEST, **signature, "card": self.card.model_dump(mode="json")})
        data = save_tensors(tensors, metadata={"offnormal": metadata})
        digest = hashlib.sha256(data).hexdigest()
        data = data.replace(_NO_DIGEST.encode(), digest.encode(), 1)
        return data if key is None else data.replace(_NO_DIGEST.encode(), _signature(digest, key).encode(), 1)

    @classmethod
    def load(cls, data: bytes) -> "Artefact":
        """Read an artefact.

        Raises ArtefactError, with the reason, unless it is complete and its probe comes out right.
        """
        card = read_card(data)
        try:
            _check_size(card, data)
            tensors = load_tensors(data)
            detector = _detector(card, tensors)
            artefact = cls(
                card=card,
                detector=detector,
                probe_x=tensors["probe.x"],
                probe_scores=tensors["probe.scores"],
                reference=_reference(card, tensors),
                report=_report(tensors),
            )
            artefact.check_probe(detector.score(artefact.probe_x))
            gap = artefact.probe_x.clone()
            gap[:, 0] = torch.nan
            detector.score(gap)  # what stands for missing readings must not fail once it is in service
        except _DO_NOT_FIT as error:
            raise ArtefactError(f"tensors do not fit the card: {' '.join(str(error).split())[:300]}") from None
        return artefact

    def check_probe(self, scores: torch.Tensor) -> None:
        """Compare the probe's scores on the module's present device with the trainer's. Raises ArtefactError."""
        got, want = scores.cpu(), self.probe_scores
        if got.shape != want.shape or not torch.allclose(got, want, rtol=PROBE_TOLERANCE, atol=1e-4, equal_nan=True):
            raise ArtefactError("the probe's scores differ from those that training computed")
        if not len(want) or bool(want.isnan().all()):
            raise ArtefactError("the probe has no score")


# The errors that a forged file may make Python, torch and safetensors raise. A RecursionError is a RuntimeError.
_DO_NOT_FIT: Final = (
    SafetensorError,
    RuntimeError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
)


def check_signature(data: bytes, key: SecretStr) -> None:
    """Raise ArtefactError unless whoever made the file had the key."""
    metadata, digest = _metadata(data)
    signature = metadata.get("signature")
    if signature is None:
        raise ArtefactError(
            "it is not signed, but OFFNORMAL_MODEL__SIGNING_KEY is set", "train a new model with this key"
        )
    if not hmac.compare_digest(_signature(digest, key).encode(), str(signature).encode("utf-8", "replace")):
        raise ArtefactError(
            "its signature does not match OFFNORMAL_MODEL__SIGNING_KEY",
            "give training and workers the same key, and train a new model",
        )


def _signature(digest: str, key: SecretStr) -> str:
    return hmac.new(key.get_secret_value().encode(), digest.encode(), hashlib.sha256).hexdigest()


def _header(data: bytes) -> dict[str, Any]:
    """Return what safetensors says of each tensor, and the metadata. Raises ValueError, TypeError, RecursionError."""
    size = int.from_bytes(data[:8], "little")
    return dict(json.loads(data[8 : 8 + size]))


def _check_size(card: ModelCard, data: bytes) -> None:
    """Check the number of tensors and of layers, before any of them is made. Raises ArtefactError."""
    if (n := len(_header(data))) > _MOST_TENSORS:
        raise ArtefactError(f"{n} tensors are more than a model has")
    for name, value in card.architecture.items():
        if isinstance(value, list | dict | str) and len(value) > _MOST_LAYERS:
            raise ArtefactError(f"the architecture's {name} has {len(value)} parts, {_MOST_LAYERS} are the most")


def _metadata(data: bytes) -> tuple[dict[str, Any], str]:
    """Return the metadata of a file, and its digest, which was verified. Raises ArtefactError."""
    try:
        metadata = json.loads(_header(data)["__metadata__"]["offnormal"])
        digest, unsigned = str(metadata["digest"]), data
        for part in (digest, str(metadata.get("signature", ""))):
            unsigned = (
                unsigned.replace(part.encode(), _NO_DIGEST.encode(), 1) if len(part) == len(_NO_DIGEST) else unsigned
            )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ArtefactError("this is no model artefact, or it is cut off or damaged") from None
    if hashlib.sha256(unsigned).hexdigest() != digest:
        raise ArtefactError("the digest is wrong: the artefact was damaged or changed")
    return metadata, digest


def read_card(data: bytes) -> ModelCard:
    """Return the model card of a file whose digest is right. Raises ArtefactError."""
    metadata, _ = _metadata(data)
    card = metadata.get("card")
    version = card.get("format_version") if isinstance(card, dict) else None
    if type(version) is not int:
        raise ArtefactError("the card has no format version")
    if version > FORMAT_VERSION:
        raise ArtefactError(
            f"format version {version} is newer than this program's {FORMAT_VERSION}", "update the workers"
        )
    if version < OLDEST_READ:
        raise ArtefactError(
            f"format version {version} is no longer supported, only {OLDEST_READ} and later", "train a new model"
        )
    try:
        json.dumps(card, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        raise ArtefactError("the card has text that is not valid Unicode") from None
    try:
        return ModelCard.model_validate(card)
    except ValidationError as error:
        first = error.errors()[0]
        raise ArtefactError(f"the card is wrong: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _detector(card: ModelCard, tensors: dict[str, torch.Tensor]) -> Detector:
    if card.kind not in KINDS:
        raise ArtefactError(f"unknown kind {card.kind!r}")
    for name, tensor in tensors.items():
        if name.startswith(_FLOAT32) and tensor.dtype != torch.float32:
            raise ArtefactError(f"{name} is of {tensor.dtype}, not of torch.float32")
        if name.startswith("calibration.") and tensor.dtype != torch.float64:
            raise ArtefactError(f"{name} is of {tensor.dtype}, not of torch.float64")
        if not (name == _REPORT or name.startswith("probe.") or tensor.isfinite().all()):
            raise ArtefactError(f"{name} is not finite")
    if not card.features or len(set(card.features)) < len(card.features):
        raise ArtefactError("the features are missing, or a name occurs twice")
    width = len(card.features) * blocks(card.window)
    if tuple(tensors["probe.x"].shape[1:]) != (width,):
        raise ArtefactError(f"the probe does not have the {width} columns of the card's features and window")
    with torch.device("meta"):  # no memory is taken before the shapes are known to fit
        module = ScoringModule(
            Scaler(torch.empty(width), torch.empty(width)),
            KINDS[card.kind](**card.architecture),
            Whitening(torch.empty(width), torch.empty(width, width)),
            Attribution(torch.empty(2, width), torch.empty(2, width), torch.empty(())),
            _incomplete(card, tensors),
        )
    if module.autoencoder.width != width:
        raise ArtefactError(f"the architecture does not have the {width} columns of the card's features and window")
    weights = {name.removeprefix("module."): t for name, t in tensors.items() if name.startswith("module.")}
    module.load_state_dict(weights, assign=True)
    module.eval().requires_grad_(False)
    return Detector(
        features=card.features,
        module=module,
        calibration=_calibration(card, tensors),
        window=card.window,
        entities=_entities(card, tensors),
        usual=_usual(card, tensors, width),
    )


def _incomplete(card: ModelCard, tensors: dict[str, torch.Tensor]) -> IncompleteScores | None:
    if card.format_version < _FILLS_IN:
        return None
    shares, quantiles = tensors["module.incomplete.shares"], tensors["module.incomplete.quantiles"]
    fits = shares.ndim == 1 and quantiles.ndim == 2 and len(shares) == len(quantiles) <= _MOST_LEVELS
    fewest = 1 if len(shares) == 1 else 2
    if not fits or not len(shares) or not fewest <= quantiles.shape[1] <= _MOST_QUANTILES:
        raise ArtefactError("the quantiles of incomplete rows have a wrong shape")
    if (shares.diff() <= 0).any() or (quantiles.diff(dim=1) <= 0).any() or shares[0] < 0 or quantiles.min() <= 0:
        raise ArtefactError("the quantiles of incomplete rows are not in order")
    return IncompleteScores(torch.empty_like(shares, device="meta"), torch.empty_like(quantiles, device="meta"))


def _entities(card: ModelCard, tensors: dict[str, torch.Tensor]) -> EntityScaler | None:
    if not card.entities:
        return None
    location, ratio = tensors["entities.location"], tensors["entities.ratio"]
    shape = (1 + len(card.entities), len(card.features))
    if location.shape != shape or ratio.shape != shape or len(set(card.entities)) < len(card.entities):
        raise ArtefactError("the entity scalers do not match the card's entities")
    if not (ratio > 0).all():
        raise ArtefactError("an entity's scale is not positive")
    return EntityScaler(card.entities, location, ratio)


_USUAL: Final = ("sizes", "middle", "scale")


def _usual(card: ModelCard, tensors: dict[str, torch.Tensor], width: int) -> Usual | None:
    if "usual.sizes" not in tensors:
        return None
    usual = Usual(**{name: tensors[f"usual.{name}"].numpy() for name in _USUAL})
    d = len(card.features)
    if (usual.sizes.shape, usual.middle.shape, usual.scale.shape) != ((width,), (d,), (d,)):
        raise ArtefactError("what is usual does not match the card's features and window")
    if not (usual.sizes > 0).all() or not (usual.scale > 0).all():
        raise ArtefactError("what is usual has sizes that are not positive")
    return usual


_REPORT: Final = "report.json"


def _report(tensors: dict[str, torch.Tensor]) -> bytes | None:
    """Return the report without reading it: a damaged one must not keep a model from being served."""
    report = tensors.get(_REPORT)
    if report is None:
        return None
    return report.numpy().tobytes() if report.dtype == torch.uint8 else b""


_REFERENCE: Final = ("location", "deviation", "spread", "present", "still", "p_values")


def _reference(card: ModelCard, tensors: dict[str, torch.Tensor]) -> Reference | None:
    if "reference.named" not in tensors:
        return None
    rows, entities = json.loads(tensors["reference.named"].numpy().tobytes())
    json.dumps(entities, ensure_ascii=False).encode()  # half of a surrogate pair is a ValueError
    arrays = {name: tensors[f"reference.{name}"].to(torch.float64).numpy() for name in _REFERENCE}
    reference = Reference(int(rows), tuple(map(str, entities)), **arrays)
    d = len(card.features)
    shapes = {(d,), (1 + len(reference.entities), d)}
    if {arrays["location"].shape} | {
        arrays[name].shape for name in _REFERENCE[1:5]
    } != shapes or reference.p_values.ndim != 1:
        raise ArtefactError("the drift reference does not match the card's features")
    if reference.rows < 1 or min(arrays[name].min() for name in _REFERENCE[1:5]) < 0:
        raise ArtefactError("the drift reference has invalid values")
    return reference


def _calibration(card: ModelCard, tensors: dict[str, torch.Tensor]) -> Calibration:
    tail = tensors["calibration.tail"]
    if tail.shape != ((3,) if card.format_version >= _FILLS_IN else (4,)):  # the fourth is no longer looked at
        raise ArtefactError("the calibration's tail has a wrong shape")
    beyond, xi, sigma = tail[:3].tolist()
    body, survival = (tensors[f"calibration.{name}"].numpy() for name in ("body", "survival"))
    falls = body.ndim == 1 and body.shape == survival.shape and len(body) > 0
    falls = falls and bool((np.diff(body) > 0).all() and (np.diff(survival) <= 0).all())
    upper = tensors["calibration.upper"].numpy() if "calibration.upper" in tensors else None
    rises = upper is None or (upper.shape == RATES.shape and bool((np.diff(upper) >= 0).all()))
    if not falls or not rises or not 0 < beyond <= survival[-1] or survival[0] > 1 or sigma <= 0:
        raise ArtefactError("the calibration has invalid values")
    return Calibration(body=body, survival=survival, beyond=beyond, xi=xi, sigma=sigma, upper=upper)

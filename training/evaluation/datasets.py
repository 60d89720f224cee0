"""Files with rows to train on and rows to test on: npz, CSV, Parquet."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from training.evaluation.scores import Interpretation, Labels, parse_interpretation
from worker.errors import SettingsError
from worker.native.arrays import Float32s

LABELS: Final = ("label", "anomaly", "y", "is_anomaly")  # a column of this name holds 0 or 1
SPLIT: Final = "split"  # a column of this name holds train or test; else the first half trains


@dataclass(frozen=True)
class Dataset:
    """`x_train` [n, d] and `x_test` [m, d], NaN where missing; `y_test` [m] 0 or 1, or None.

    `is_later` says whether the rows to test on come after those to train on, so that they can be followed.
    """

    name: str
    features: tuple[str, ...]
    x_train: Float32s
    x_test: Float32s
    y_test: Labels | None
    interpretation: Interpretation
    is_later: bool = True


def read(path: Path) -> Dataset:
    """Read a labelled file. Raises SettingsError, which names the file and what is wrong with it."""
    if not path.is_file():
        raise SettingsError(f"no such file: {path}")
    try:
        if path.suffix == ".npz":
            return _npz(path)
        if path.suffix in (".csv", ".parquet"):
            return _table(path)
    except (ValueError, KeyError, OSError) as error:
        raise SettingsError(f"{path}: {' '.join(str(error).split())[:300]}") from None
    raise SettingsError(f"{path}: .npz, .csv or .parquet is needed")


def _npz(path: Path) -> Dataset:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if not {"X_train", "X_test"} <= set(arrays):
        raise ValueError("X_train and X_test are needed")
    width = arrays["X_train"].shape[-1]
    names = tuple(map(str, arrays.get("feature_names", [f"f{i}" for i in range(width)])))
    # In ASD's files the end of a segment is inclusive; in all other known files it is exclusive.
    inclusive = _meta(arrays).get("set") == "ASD"
    lines = [str(line) for line in arrays.get("interpretation", [])]
    return _dataset(
        name=path.stem,
        features=names,
        x_train=arrays["X_train"],
        x_test=arrays["X_test"],
        y_test=arrays.get("y_test"),
        interpretation=parse_interpretation(lines, end_inclusive=inclusive),
        is_later=_is_later(arrays),
    )


def _is_later(arrays: dict[str, npt.NDArray[Any]]) -> bool:
    """Return False where `row_train` and `row_test`, the rows' places in their source, show that these are mixed."""
    train, test = (arrays.get(name) for name in ("row_train", "row_test"))
    if train is None or test is None or not train.size or not test.size:
        return True
    return bool(test.min() > train.max())


def _meta(arrays: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    try:
        document = json.loads(str(arrays["meta"]))
    except (KeyError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _table(path: Path) -> Dataset:
    import pandas

    frame = pandas.read_csv(path, **_dialect(path)) if path.suffix == ".csv" else pandas.read_parquet(path)
    label = next((name for name in LABELS if name in frame), None)
    if SPLIT in frame:
        train = (frame[SPLIT] == "train").to_numpy()
        if not set(frame[SPLIT]) <= {"train", "test"}:
            raise ValueError(f"column {SPLIT} holds something else than train and test")
    else:
        train = np.arange(len(frame)) < len(frame) // 2
    columns = frame.drop(columns=[name for name in (label, SPLIT) if name in frame]).select_dtypes(["number", "bool"])
    if columns.empty:
        first = {str(name): str(value) for name, value in frame.head(1).to_dict("list").items()}
        raise ValueError(f"no column holds numbers; the first row is {first}")
    x = columns.to_numpy(np.float32, na_value=np.nan)
    y = frame[label].to_numpy() if label else None
    return _dataset(
        name=path.stem,
        features=tuple(map(str, columns.columns)),
        x_train=x[train],
        x_test=x[~train],
        y_test=None if y is None else y[~train],
        interpretation=[],
    )


def _dialect(path: Path) -> dict[str, str]:
    """Return how a CSV file is written: by commas, or as a spreadsheet does where the comma is the decimal sign."""
    with path.open(encoding="utf-8", errors="replace") as file:
        header, sample = file.readline(), file.read(100_000)
    separator = max(",;\t", key=header.count)
    cell = rf'(?:^|{separator})\s*"?[-+]?\d*,\d+(?:[eE][-+]?\d+)?"?\s*(?:{separator}|$)'
    has_decimal_comma = separator != "," and re.search(cell, sample, re.MULTILINE) is not None
    return {"sep": separator, "decimal": "," if has_decimal_comma else "."}


def _dataset(
    name: str,
    features: tuple[str, ...],
    x_train: npt.NDArray[Any],
    x_test: npt.NDArray[Any],
    y_test: npt.NDArray[Any] | None,
    interpretation: Interpretation,
    is_later: bool = True,
) -> Dataset:
    if x_train.ndim != 2 or x_test.ndim != 2 or not x_train.shape[1] == x_test.shape[1] == len(features) > 0:
        raise ValueError(
            f"train {x_train.shape} and test {x_test.shape} must have rows of the same {len(features)} features"
        )
    if not len(x_train) or not len(x_test):
        raise ValueError("rows to train on and rows to test on are needed")
    if y_test is not None and (y_test.shape != (len(x_test),) or not np.isin(y_test, (0, 1)).all()):
        raise ValueError("labels must be 0 or 1, one for each row to test on")
    train, test = (_readings(x) for x in (x_train, x_test))
    return Dataset(
        name=name,
        features=features,
        x_train=train,
        x_test=test,
        y_test=None if y_test is None else y_test.astype(np.uint8),
        interpretation=interpretation,
        is_later=is_later,
    )


def _readings(x: npt.NDArray[Any]) -> Float32s:
    """Return the readings with infinite ones marked as missing, since the worker would reject such a record."""
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(x, np.float32)
    return np.where(np.isinf(rows), np.float32(np.nan), rows)

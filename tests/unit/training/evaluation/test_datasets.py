"""Files to evaluate on: what is read from them, and what is refused by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from training.evaluation.datasets import read
from worker.errors import SettingsError

X = np.arange(12, dtype=np.float64).reshape(6, 2)


def npz(folder: Path, **arrays: Any) -> Path:
    path = folder / "machine-1.npz"
    np.savez(path, **arrays)
    return path


def test_an_npz_with_all_there_can_be(tmp_path: Path) -> None:
    path = npz(
        tmp_path,
        X_train=X,
        X_test=X[:4],
        y_test=[0, 1, 1, 0],
        feature_names=["heat", "flow"],
        interpretation=["1-3:1,2"],
    )
    data = read(path)
    assert (data.name, data.features) == ("machine-1", ("heat", "flow"))
    assert data.x_train.dtype == np.float32 and data.x_train.shape == (6, 2) and data.x_test.shape == (4, 2)
    assert data.y_test is not None and data.y_test.tolist() == [0, 1, 1, 0]
    assert data.interpretation == [(slice(1, 3), (0, 1))]


@pytest.mark.parametrize(("of", "end"), [("ASD", 4), ("SMD", 3)])
def test_the_end_of_a_segment_is_inclusive_in_asd_alone(tmp_path: Path, of: str, end: int) -> None:
    path = npz(tmp_path, X_train=X, X_test=X, interpretation=["1-3:2"], meta=json.dumps({"set": of}))
    assert read(path).interpretation == [(slice(1, end), (1,))]


def test_labels_and_names_may_be_missing(tmp_path: Path) -> None:
    data = read(npz(tmp_path, X_train=X, X_test=X))
    assert data.y_test is None and data.features == ("f0", "f1") and data.interpretation == []


@pytest.mark.parametrize(("train", "test", "is_later"), [([0, 2], [1, 3], False), ([0, 1], [2, 3], True)])
def test_rows_drawn_from_among_those_of_the_training_are_not_later(
    tmp_path: Path, train: list[int], test: list[int], is_later: bool
) -> None:
    assert read(npz(tmp_path, X_train=X, X_test=X, row_train=train, row_test=test)).is_later == is_later


def test_infinite_readings_count_as_missing(tmp_path: Path) -> None:
    wild = np.where(X == 3, np.inf, np.where(X == 4, 1e300, X))
    x = read(npz(tmp_path, X_train=wild, X_test=X)).x_train
    assert np.isnan(x[1, 1]) and np.isnan(x[2, 0]) and np.isnan(x).sum() == 2


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("decimal", [",", "."])
def test_a_csv_may_be_written_as_a_spreadsheet_does(tmp_path: Path, separator: str, decimal: str) -> None:
    rows = [["time", "heat", "flow"], ["1.1.2026", "1.5", "2"], ["2.1.2026", "", "-2e3"], ["3.1.2026", "7", "8.25"]]
    lines = [separator.join([row[0], *(cell.replace(".", decimal) for cell in row[1:])]) for row in rows]
    (tmp_path / "t.csv").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    found = read(tmp_path / "t.csv")
    assert found.features == ("heat", "flow")
    np.testing.assert_array_equal(np.vstack([found.x_train, found.x_test]), [[1.5, 2], [np.nan, -2000], [7, 8.25]])


def test_a_table_without_numbers_is_refused_with_its_first_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("heat flow\n1:5 2\n3:1 4\n")
    with pytest.raises(SettingsError, match=r"no column holds numbers; the first row is .*heat flow.*1:5 2"):
        read(tmp_path / "t.csv")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_are_split_by_a_column_or_in_half(tmp_path: Path, suffix: str) -> None:
    frame = pandas.DataFrame(X, columns=["heat", "flow"]).assign(label=[0, 0, 0, 0, 1, 1], unit="K")
    write = frame.to_csv if suffix == ".csv" else frame.to_parquet
    write(tmp_path / f"half{suffix}", index=False)
    data = read(tmp_path / f"half{suffix}")
    assert data.features == ("heat", "flow"), "neither the label nor text is a feature"
    assert len(data.x_train) == 3 and data.y_test is not None and data.y_test.tolist() == [0, 1, 1]
    frame["split"] = ["test", "train", "train", "train", "train", "test"]
    write = frame.to_csv if suffix == ".csv" else frame.to_parquet
    write(tmp_path / f"named{suffix}", index=False)
    data = read(tmp_path / f"named{suffix}")
    assert data.x_test.tolist() == [[0, 1], [10, 11]]


def test_an_empty_cell_is_a_missing_reading(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("heat,flow\n1,2\n3,\n5,6\n7,8\n")
    assert np.isnan(read(tmp_path / "t.csv").x_train).tolist() == [[False, False], [False, True]]


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"X_train": X}, "X_train and X_test"),
        ({"X_train": X, "X_test": X[:, :1]}, "same 2 features"),
        ({"X_train": X[0], "X_test": X}, "must have rows"),
        ({"X_train": X, "X_test": X, "y_test": [0, 1]}, "one for each row"),
        ({"X_train": X, "X_test": X, "y_test": [0, 1, 2, 0, 0, 0]}, "0 or 1"),
        ({"X_train": X[:0], "X_test": X}, "rows to train on"),
        ({"X_train": X, "X_test": X, "interpretation": ["one-two:3"]}, "one-two:3"),
        ({"X_train": X, "X_test": X, "feature_names": ["only"]}, "1 features"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_name(tmp_path: Path, arrays: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told) as error:
        read(npz(tmp_path, **arrays))
    assert "machine-1.npz" in str(error.value)


@pytest.mark.parametrize(("name", "content"), [("gone.npz", None), ("a.npz", b"no zip"), ("a.txt", b"1,2")])
def test_what_is_no_data_set_is_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingsError, match=name):
        read(tmp_path / name)


def test_no_pickle_is_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        read(npz(tmp_path, X_train=np.array([{"a": 1}], dtype=object), X_test=X))

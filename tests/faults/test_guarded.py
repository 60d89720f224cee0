"""The checks for access outside of a loop's memory find each loop that is wrong on purpose (wrong_loops.py)."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.faults.fuzz_guarded.parent import ROOT, in_child
from tests.faults.fuzz_guarded.targets import TARGETS
from tests.faults.guarded import PAGE, Guarded, guarded_empty


@pytest.mark.parametrize("size", [0, 1, 7, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE])
def test_bytes_lie_where_they_should(size: int) -> None:
    memory = Guarded(2 * PAGE + 1)
    assert memory.size == 3 * PAGE
    data = os.urandom(size)
    end, begin = (np.frombuffer(view, np.uint8) for view in (memory.ending(data), memory.beginning(data)))
    assert not end.flags.writeable
    if size:
        assert (end.ctypes.data + size) % PAGE == begin.ctypes.data % PAGE == 0
        assert end.ctypes.data + size - begin.ctypes.data == memory.size
    assert bytes(memory.beginning(data)) == data and bytes(memory.ending(data)) == data


def test_there_is_no_more_room_than_there_is() -> None:
    with pytest.raises(ValueError, match="room for"):
        Guarded(1).ending(bytes(PAGE + 1))


def test_arrays_end_where_memory_does() -> None:
    with guarded_empty() as empty:
        for shape, kind in [(5, np.int64), ((3, 2), np.float32), ((0, 4), np.int64), (PAGE + 3, np.uint8)]:
            made = np.empty(shape, kind)
            assert made.dtype == kind and made.shape == (shape if isinstance(shape, tuple) else (shape,))
            assert made.flags.c_contiguous and made.flags.aligned
            if made.size:
                assert (made.ctypes.data + made.nbytes) % PAGE == 0
                made[:] = 1
        with empty.exactly(3):
            assert np.empty(10, np.uint8).shape == (3,) and np.empty(10, np.int64).shape == (10,)
            with pytest.raises(AssertionError):
                np.empty(2, np.uint8)
    assert type(np.empty) is not type(empty)


@pytest.mark.parametrize("before", [False, True])
def test_a_page_beside_them_cannot_be_read(before: bool) -> None:
    told = (
        "import ctypes; from tests.faults.guarded import Guarded; import numpy as np; m = Guarded(1);"
        f"a = np.frombuffer(m.{'beginning' if before else 'ending'}(b'abc'), np.uint8).ctypes.data;"
        f"print(ctypes.string_at(a, 3), flush=True); ctypes.string_at(a + {-1 if before else 3}, 1)"
    )
    ran = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.stdout == "b'abc'\n" and ran.returncode == -11


@pytest.mark.parametrize("name", ["over-read", "under-read", "over-write"])
def test_one_byte_too_many_is_found_and_found_again(name: str, tmp_path: Path) -> None:
    """And what comes after it is tried all the same."""
    found = in_child([name, "f32"], 2000, 7, tmp_path)
    (complaint,) = found.complaints
    assert complaint.startswith(f"{name}: ended by SIGSEGV") and name not in found.records
    assert found.records["f32"] >= 2000
    kept = next(tmp_path.glob(f"{name}-7-*"))
    assert 0 < len(kept.read_bytes()) < 50 and str(kept) in complaint
    again = complaint.partition("again: python ")[2].splitlines()[0].split()
    ran = subprocess.run([sys.executable, *again], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == -11 and "wrong_loops.py" in ran.stderr


def test_an_index_out_of_bounds_is_found_where_bounds_are_looked_at(tmp_path: Path) -> None:
    assert not in_child(["out-of-bounds"], 2000, 7, tmp_path).complaints, "there is memory behind it"
    (complaint,) = in_child(["out-of-bounds"], 2000, 7, tmp_path, bounds=True).complaints
    assert "IndexError" in complaint


def test_another_result_than_that_of_the_reference_is_found(tmp_path: Path) -> None:
    (complaint,) = in_child(["differs"], 2000, 7, tmp_path).complaints
    assert "not what the reference has" in complaint and "ended with 1" in complaint


def test_a_loop_without_an_end_is_found(tmp_path: Path) -> None:
    (complaint,) = in_child(["endless"], 2000, 7, tmp_path, patience=3).complaints
    assert "Timeout" in complaint and "wrong_loops.py" in complaint


def test_every_target_is_known_to_the_command() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.faults.fuzz_guarded", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(name in ran.stdout for name in TARGETS)

"""Where what an image has compiled is copied to: one folder, this user's alone."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numba
import pytest

from worker.native import jit


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Read only, as in an image; with a folder of its own for temporary files."""
    made = tmp_path / "shipped"
    (made / "part").mkdir(parents=True)
    (made / "part" / "code.nbc").write_bytes(b"code")
    (made / "part").chmod(0o555)
    made.chmod(0o555)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(jit.tempfile, "tempdir", str(tmp_path / "tmp"))  # type: ignore[attr-defined]
    monkeypatch.setenv("NUMBA_SHIPPED_CACHE", str(made))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    return made


def folder(tmp_path: Path) -> Path:
    return tmp_path / "tmp" / f"offnormal-numba-{os.getuid()}"


def files(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "tmp").rglob("*") if path.is_file())


def test_many_starts_leave_one_copy(shipped: Path, tmp_path: Path) -> None:
    jit._unpack()
    first = Path(numba.config.CACHE_DIR)
    (first / "part" / "more.nbc").write_bytes(b"compiled later")
    for _ in range(5):
        jit._unpack()
        assert Path(numba.config.CACHE_DIR) == first
    assert [path.name for path in files(tmp_path)] == ["code.nbc", "more.nbc"]
    assert folder(tmp_path).stat().st_mode & 0o777 == 0o700


def test_another_image_has_another_copy(shipped: Path, tmp_path: Path) -> None:
    jit._unpack()
    first = numba.config.CACHE_DIR
    os.utime(shipped, (1, 1))
    jit._unpack()
    assert first != numba.config.CACHE_DIR


@pytest.mark.parametrize("way", ["a link", "others may write", "a file"])
def test_what_somebody_else_may_have_put_there_is_not_loaded(shipped: Path, tmp_path: Path, way: str) -> None:
    """It is pickle."""
    there = folder(tmp_path)
    if way == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        there.symlink_to(tmp_path / "elsewhere")
    elif way == "a file":
        there.write_bytes(b"")
    else:
        there.mkdir()
        there.chmod(0o777)
    jit._unpack()
    assert numba.config.CACHE_DIR == ""


def test_a_folder_of_another_user_is_not_used(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = os.getuid()
    monkeypatch.setattr(jit.os, "getuid", lambda: mine + 1)  # type: ignore[attr-defined]
    jit._unpack()
    assert numba.config.CACHE_DIR == ""


def test_what_a_killed_start_has_left_goes(shipped: Path, tmp_path: Path) -> None:
    jit._own_folder()
    old, young = folder(tmp_path) / "half-old", folder(tmp_path) / "half-young"
    for half in (old, young):
        half.mkdir()
        (half / "code").write_bytes(bytes(100))
    then = time.time() - 3600
    os.utime(old, (then, then))
    jit._unpack()
    assert not old.exists() and young.exists(), "another may still be copying"


def test_several_that_start_at_once_have_whole_copies(shipped: Path, tmp_path: Path) -> None:
    script = "import numba, worker.native.jit; print(numba.config.CACHE_DIR)"
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp")}
    processes = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    told = {process.communicate(timeout=60)[0].strip() for process in processes}
    (copy,) = told
    assert (Path(copy) / "part" / "code.nbc").read_bytes() == b"code"
    assert len(files(tmp_path)) == 1

"""Python compiled to machine code by numba, for loops over rows that no array operation says as plainly."""

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numba
import numpy.typing as npt

_HALF_FOR: Final = 600.0  # seconds for which somebody may still be copying


def _unpack() -> None:
    """Copy the image's compiled code (NUMBA_SHIPPED_CACHE) to where numba can use it.

    numba uses no cache that it cannot write to, and an image may be read only.
    """
    shipped = os.environ.get("NUMBA_SHIPPED_CACHE")
    if shipped and os.path.isdir(shipped) and "NUMBA_CACHE_DIR" not in os.environ:
        # Without the copy, numba chooses another cache folder, or compiles everything again.
        with contextlib.suppress(OSError):
            numba.config.CACHE_DIR = str(_copy_of(Path(shipped), _own_folder()))


def _own_folder() -> Path:
    """Return a folder of this user, the same at each start, since new copies would fill the disk.

    numba's cache is pickle, which can run code. Raises OSError where another user has made the folder, or may write to
    it.
    """
    folder = Path(tempfile.gettempdir(), f"offnormal-numba-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise PermissionError(f"{folder} is not this user's alone")
    return folder


def _copy_of(shipped: Path, folder: Path) -> Path:
    """Copy what is shipped into `folder`; return the copy, which is named by its content. Raises OSError.

    The copy appears as a whole, since other workers start at the same time. What a killed start has left is removed.
    """
    about = shipped.stat()
    identity = f"{shipped.resolve()} {about.st_ino} {about.st_mtime_ns}"
    copy = folder / hashlib.sha256(identity.encode()).hexdigest()[:16]
    for half in folder.glob("half-*"):
        with contextlib.suppress(OSError):  # another removes it too
            if time.time() - half.stat().st_mtime > _HALF_FOR:
                shutil.rmtree(half)
    if not copy.exists():
        half = Path(tempfile.mkdtemp(prefix="half-", dir=folder))
        try:
            unpacked = shutil.copytree(shipped, half / "copy", copy_function=shutil.copyfile)
            for path in [unpacked, *unpacked.rglob("*")]:  # what is shipped may be read only
                path.chmod(0o700 if path.is_dir() else 0o600)
            unpacked.rename(copy)
        except OSError:
            if not copy.exists():  # else another has been faster
                raise
        finally:
            shutil.rmtree(half, ignore_errors=True)
    return copy


_unpack()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile the function at its first call, without the GIL; its code is cached on disk where that is possible.

    Division is numpy's: checking for zeros, as Python does, prevents vectorisation.
    """
    try:
        jitted: Callable[..., Any] = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # a read-only file system and no NUMBA_CACHE_DIR
        jitted = numba.njit(nogil=True, error_model="numpy")(function)
    return jitted


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile the function into its callers: a call with several results costs more than most bodies do."""
    jitted: Callable[..., Any] = numba.njit(inline="always", error_model="numpy")(function)
    return jitted


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the same array, read only: numba would compile anew for arrays that may be written to."""
    view = array.view()
    view.flags.writeable = False
    return view

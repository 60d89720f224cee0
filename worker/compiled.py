"""Python compiled to machine code by numba, for loops over rows that no array operation says as plainly."""

import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import numba
import numpy.typing as npt


def _unpack() -> None:
    """numba uses no cache that it cannot write to, and an image may be read only: what was compiled for the image lies
    in NUMBA_SHIPPED_CACHE, and is copied to where there is a place for it.
    """
    shipped = os.environ.get("NUMBA_SHIPPED_CACHE")
    if shipped and os.path.isdir(shipped) and "NUMBA_CACHE_DIR" not in os.environ:
        numba.config.CACHE_DIR = shutil.copytree(shipped, tempfile.mkdtemp(prefix="numba-"), dirs_exist_ok=True)


_unpack()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled at its first call, without the GIL; the machine code is cached on disk where there is a place for it.

    Division is numpy's: to look for zeros, as Python does, keeps a loop from being vectorised.
    """
    try:
        made: Callable[..., Any] = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # a read-only file system and no NUMBA_CACHE_DIR
        made = numba.njit(nogil=True, error_model="numpy")(function)
    return made


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """For compiled loops, which have it in their place: a call with several results costs more than most of them do."""
    made: Callable[..., Any] = numba.njit(inline="always", error_model="numpy")(function)
    return made


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same array. numba compiles anew for arrays that may be written to, and a block's may or may not."""
    view = array.view()
    view.flags.writeable = False
    return view

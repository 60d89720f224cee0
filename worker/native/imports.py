"""Imports that take seconds, and that Ctrl-C ends at once."""

import contextlib
import gc
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end the process at once while modules are imported.

    As an exception, Ctrl-C could be caught inside of some library's import, and the command would continue. The garbage
    collector is off during the import, since nothing that an import creates is garbage.
    """
    if threading.current_thread() is not threading.main_thread():  # it has no signals
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        signal.signal(signal.SIGINT, before)

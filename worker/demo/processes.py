"""The demo's child processes: started with the settings that production would give them, ended whatever happens."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from worker.errors import OffnormalError


class Processes:
    """Runs `python -m worker` and `python -m training`, with their logs in files under `folder`."""

    def __init__(self, folder: Path, environment: Mapping[str, str]):
        self._folder = folder
        clean = {k: v for k, v in os.environ.items() if not k.startswith("OFFNORMAL_")}
        self._environment = clean | dict(environment)
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            if process.poll() is None:
                process.terminate()
        for process in self._running:
            try:
                process.wait(12)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(self, name: str, *arguments: str, **settings: str) -> subprocess.Popen[bytes]:
        """Start `python -m ARGUMENTS` in its own session: Ctrl-C reaches only the demo, which ends it in order."""
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env=self._environment | settings,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def log(self, name: str) -> Path:
        """Return the file that a process logs to."""
        return self._folder / f"{name}.log"

    def require_success(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Raise OffnormalError, with the end of its log, if the process has ended in error."""
        if process.returncode not in (None, 0):
            tail = self.log(name).read_text(errors="replace").strip().splitlines()[-3:]
            ended = f"code {process.returncode}"
            if process.returncode < 0:
                ended = signal.Signals(-process.returncode).name
            raise OffnormalError(f"{name} ended with {ended}: {' | '.join(tail)}")

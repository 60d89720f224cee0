"""What a person sees of a training: a bar on a terminal, else a log line every few seconds."""

import sys
import time
from types import TracebackType

import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from training.fitting.fit import Round

log = structlog.get_logger()

EVERY = 5.0  # seconds between log lines


class Shown:
    """Shows reading and fitting, on standard error."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._last = 0.0
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[told]}"),
                TimeElapsedColumn(),
                console=Console(stderr=True),
            )
            self._reading = self._bar.add_task("reading ", total=None, told="")
            self._fitting = self._bar.add_task("training", total=1, told="", visible=False)
            self._calibrating = self._bar.add_task("calibrating", total=1, told="", visible=False)

    def __enter__(self) -> "Shown":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def read(self, rows: int) -> None:
        """Show how many rows have been read."""
        if self._bar is not None:
            self._bar.update(self._reading, told=f"{rows:,} rows")
        elif self._due():
            log.info("rows_read", rows=rows)

    def fitted(self, r: Round) -> None:
        """Show a round of the fit."""
        if self._bar is not None:
            text = f"epoch {r.epoch:.1f}  loss {r.loss:.4f}  held-out {r.held_out_loss:.4f}  ETA {r.eta:.0f} s"
            self._bar.update(self._reading, total=1, completed=1)
            self._bar.update(self._fitting, total=r.of, completed=r.number, told=text, visible=True)
        elif self._due():
            loss, held_out = round(r.loss, 5), round(r.held_out_loss, 5)
            log.info(
                "training_progressed", epoch=round(r.epoch, 1), loss=loss, held_out_loss=held_out, eta=round(r.eta, 1)
            )

    def calibrated(self, done: int, of: int) -> None:
        """Show how much of the calibration is done: with thousands of columns it takes longer than the fit."""
        if self._bar is not None:
            self._bar.update(self._calibrating, total=of, completed=done, told=f"part {done} of {of}", visible=True)
        elif self._due():
            log.info("calibration_progressed", done=done, of=of)

    def _due(self) -> bool:
        if time.monotonic() - self._last < EVERY:
            return False
        self._last = time.monotonic()
        return True

"""The GPU's way to score: ScoringModule.forward in fixed shapes, with one launch for all its kernels and copies.

Rows are processed in parts, by two stages in turn. A stage is a page-locked buffer, a stream, and a captured graph that
copies the buffer to the device, scores, and copies the scores back. While one stage computes, the other copies.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch

from worker.models.detector import ScoringModule
from worker.models.trim import Trims
from worker.native.arrays import Float32s, Int64s

SIZES: Final = (1024, 16384)  # rows of a stage: a small batch is not to wait for the copy of a large one


class StagedScorer:
    """Scores by one module, on its device. Not for two threads at once."""

    def __init__(self, module: ScoringModule, least_present: float, trims: Trims | None = None):
        """Capture the module. Raises RuntimeError where that is not possible.

        On the CPU nothing is captured: there the module is only called.
        """
        self._module, self._least_present, self._trims = module, least_present, trims
        with torch.inference_mode():
            self._stages = {rows: [_Stage(module, rows, least_present, trims) for _ in range(2)] for rows in SIZES}

    def trimmed(self, trims: Trims) -> "StagedScorer":
        """Return a scorer with trims. Raises RuntimeError where the module cannot be captured with them."""
        return StagedScorer(self._module, self._least_present, trims)

    def score(self, x: Float32s, row: Int64s | None = None) -> Float32s:
        """Return the scores [n] of x [n, D], NaN where missing, as ScoringModule.forward has them.

        `row` [n] are the rows of the trims, if there are any.
        """
        if self._trims is None:
            row = None
        elif row is None:
            row = np.zeros(len(x), np.int64)
        scores = np.empty(len(x), np.float32)
        rows = next((size for size in SIZES if len(x) <= size), SIZES[-1])
        stages = self._stages[rows]
        for i, begin in enumerate(range(0, len(x), rows)):
            stages[i % 2].finish()
            part = slice(begin, begin + rows)
            stages[i % 2].start(x[part], None if row is None else row[part], scores[part])
        for stage in stages:
            stage.finish()
        return scores


class _Stage:
    def __init__(self, module: ScoringModule, rows: int, least_present: float, trims: Trims | None):
        device = module.scaler.location.device
        on_cuda = device.type == "cuda"
        self._there = torch.zeros(rows, len(module.scaler.location), pin_memory=on_cuda)
        self._row_there = torch.zeros(rows, dtype=torch.int64, pin_memory=on_cuda)
        self._back = torch.empty(rows, pin_memory=on_cuda)
        self._out: Float32s | None = None
        x = torch.empty_like(self._there, device=device)
        row = None if trims is None else torch.empty_like(self._row_there, device=device)

        def once() -> None:
            x.copy_(self._there, non_blocking=True)
            if row is not None:
                row.copy_(self._row_there, non_blocking=True)
            self._back.copy_(module(x, least_present, trims, row), non_blocking=True)

        self._once = once  # keeps the tensors that the graph works on alive, which the graph does not
        self._stream = torch.cuda.Stream(device) if on_cuda else None  # type: ignore[no-untyped-call]
        self._launch = once if self._stream is None else captured(once, self._stream)

    def start(self, x: Float32s, row: Int64s | None, out: Float32s) -> None:
        """Start scoring x [n, D] by the rows `row` [n] of the trims; `finish` fills `out` [n].

        The buffers behind x and row may hold rows of an earlier part.
        """
        self._there.numpy()[: len(x)] = x
        if row is not None:
            self._row_there.numpy()[: len(x)] = row
        self._out = out
        if self._stream is None:
            self._launch()
        else:
            with torch.cuda.stream(self._stream):
                self._launch()

    def finish(self) -> None:
        """Wait for the part that was started last, unless that was done."""
        if self._out is None:
            return
        if self._stream is not None:
            self._stream.synchronize()
        self._out[:] = self._back.numpy()[: len(self._out)]
        self._out = None


def captured(once: Callable[[], None], stream: torch.cuda.Stream) -> Callable[[], None]:
    """Capture `once` as a graph, which is valid for as long as the caller holds its tensors.

    The first calls allocate memory and choose kernels, which must not be captured. Other threads keep using the device
    meanwhile, since a model is loaded while another one serves.
    """
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            once()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        once()
    return graph.replay

"""The CPU's way to score: the same arithmetic as ScoringModule.forward, with fewer passes over memory.

Rows are processed in parts that stay in the cache, in buffers that are allocated once. Scaling and the sum of the score
are one compiled loop each. Everything before the whitening is rounded as in the module, since the whitening turns a
last bit into a hundred of them. A part with a missing or far reading is left to the module.
"""

# mypy: disable-error-code="no-untyped-def"
from typing import Final

import numpy as np
import torch

from worker.models.detector import DEGREES, ScoringModule
from worker.models.scaler import LINEAR_UP_TO
from worker.native.arrays import Float32s
from worker.native.jit import compiled, read_only

ROWS: Final = 2048
_FACTORS: Final = 16  # each at most (118 * 100 * D)^2 / nu: their product is finite


class FusedScorer:
    """Scores by one module. Not for two threads at once."""

    def __init__(self, module: ScoringModule, least_present: float):
        """Prepare the compiled scorer. Raises ValueError where it does not fit the module."""
        chain = module.autoencoder.chain()
        if chain is None:
            raise ValueError(f"the {module.autoencoder.kind} kind is no chain of layers")
        self._module, self._least_present = module, least_present
        self._location, self._divisor = module.scaler.location.numpy(), module.scaler.scale.numpy()
        self._layers = [(weight.T, bias.numpy(), relu) for weight, bias, relu in chain]
        self._root = module.whitening.root
        self._offset = -(module.whitening.mean @ self._root).numpy()
        width = len(self._divisor)
        self._z = torch.empty(ROWS, width)
        self._hidden = [torch.empty(ROWS, weight.shape[1]) for weight, _, _ in self._layers]
        self._white = torch.empty(width, ROWS)  # a column a row, so that what follows runs along rows
        self._products = np.empty((-(-width // _FACTORS), ROWS))

    def score(self, x: Float32s) -> Float32s:
        """Return the scores [n] of x [n, D], NaN where missing, as ScoringModule.forward has them."""
        scores = np.empty(len(x), np.float32)
        for begin in range(0, len(x), ROWS):
            part = x[begin : begin + ROWS]
            if _scale(read_only(part), self._location, self._divisor, np.float32(LINEAR_UP_TO), self._z.numpy()):
                scores[begin : begin + ROWS] = self._score(len(part))
            else:
                scores[begin : begin + ROWS] = self._module(torch.from_numpy(part), self._least_present).numpy()
        return scores

    def _score(self, n: int) -> Float32s:
        hidden = self._z[:n]
        for (weight, bias, relu), buffer in zip(self._layers, self._hidden, strict=True):
            hidden = torch.mm(hidden, weight, out=buffer[:n])
            _add(hidden.numpy(), bias, relu)
        residual = torch.sub(self._z[:n], hidden, out=hidden)
        torch.mm(residual, self._root, out=self._white[:, :n].T)
        # The mean over a row of nu log(1 + w^2 / nu), as logarithms of products, since logarithms are expensive.
        products = self._products[:, :n]
        _multiply(self._white.numpy(), self._offset, DEGREES, products)
        mean: Float32s = np.log(products, out=products).sum(0) * (DEGREES / len(self._white))
        return mean


@compiled
def _scale(x, location, scale, limit, out):
    """Compute z = (x - location) / scale. Return False if a value is missing, or so large that it would be softened."""
    n, d = x.shape
    fine = np.int32(0)
    for i in range(n):
        row, to = x[i], out[i]
        for j in range(d):
            z = (row[j] - location[j]) / scale[j]
            to[j] = z
            fine += np.int32(abs(z) <= limit)
    return fine == n * d


@compiled
def _add(hidden, bias, relu):
    """Add the bias in place, then apply ReLU if asked. (torch.addmm takes a pass of its own over the bias.)"""
    floor = np.float32(0 if relu else -np.inf)
    for i in range(len(hidden)):
        row = hidden[i]
        for j in range(len(bias)):
            row[j] = max(row[j] + bias[j], floor)


@compiled
def _multiply(white, offset, degrees, out):
    """Fill `out` [D / FACTORS, n] with products of 1 + w^2 / nu, where w is `white` [D, n] moved by `offset` [D]."""
    inverse = 1 / degrees
    for j in range(len(white)):
        row, to = white[j], out[j // _FACTORS]
        if j % _FACTORS == 0:
            to[:] = 1
        for i in range(len(to)):
            w = np.float64(row[i] + offset[j])
            to[i] *= 1 + w * w * inverse

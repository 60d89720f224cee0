"""The CPU's way to score: the same arithmetic as ScoringModule.forward, with fewer passes over memory.

Rows are processed in parts that stay in the cache, in buffers that are allocated once. Scaling and the sum of the score
are one compiled loop each. Everything before the whitening is rounded as in the module, since the whitening turns a
last bit into a hundred of them. Rows with a missing or far reading are left to the module.
"""

# mypy: disable-error-code="no-untyped-def"
import copy
from typing import Final

import numpy as np
import torch

from worker.models.detector import DEGREES, ScoringModule
from worker.models.scaler import LINEAR_UP_TO
from worker.models.trim import Trims
from worker.native.arrays import Float32s, Int64s
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
        self._no_shrink = np.ones(width, np.float32)
        self._z = torch.empty(ROWS, width)
        self._left = np.empty(ROWS, bool)
        self._hidden = [torch.empty(ROWS, weight.shape[1]) for weight, _, _ in self._layers]
        self._white = torch.empty(width, ROWS)  # a column a row, so that what follows runs along rows
        self._products = np.empty((-(-width // _FACTORS), ROWS))
        self._trims: Trims | None = None
        self._tables: tuple[Float32s, Float32s] | None = None  # offset and shrink of the trims, both [D, 1 + e]

    def trimmed(self, trims: Trims) -> "FusedScorer":
        """Return a scorer with trims, which shares this one's buffers."""
        scorer = copy.copy(self)
        scorer._trims = trims
        scorer._tables = trims.offset.T.contiguous().numpy(), trims.shrink.T.contiguous().numpy()
        _warm_up_trims()
        return scorer

    def score(self, x: Float32s, row: Int64s | None = None) -> Float32s:
        """Return the scores [n] of x [n, D], NaN where missing, as ScoringModule.forward has them.

        `row` [n] are the rows of the trims.
        """
        scores = np.empty(len(x), np.float32)
        if self._trims is None or (row is not None and not row.any()):
            row = None  # no entity of the batch has a trim
        for begin in range(0, len(x), ROWS):
            part, to = x[begin : begin + ROWS], scores[begin : begin + ROWS]
            of_part = None if row is None else row[begin : begin + ROWS]
            n = _scale(
                read_only(part), self._location, self._divisor, np.float32(LINEAR_UP_TO), self._z.numpy(), self._left
            )
            if n == len(part):
                to[:] = self._score(n, of_part)
                continue
            left = self._left[: len(part)]
            of_left = None if of_part is None else torch.from_numpy(of_part[left])
            to[left] = self._module(torch.from_numpy(part[left]), self._least_present, self._trims, of_left).numpy()
            if n:
                to[~left] = self._score(n, None if of_part is None else of_part[~left])
        return scores

    def _score(self, n: int, row: Int64s | None) -> Float32s:
        hidden = self._z[:n]
        for (weight, bias, relu), buffer in zip(self._layers, self._hidden, strict=True):
            hidden = torch.mm(hidden, weight, out=buffer[:n])
            _add(hidden.numpy(), bias, relu)
        residual = torch.sub(self._z[:n], hidden, out=hidden)
        torch.mm(residual, self._root, out=self._white[:, :n].T)
        # The mean over a row of nu log(1 + w^2 / nu), as logarithms of products, since logarithms are expensive.
        products = self._products[:, :n]
        if row is None or self._tables is None:
            _multiply(self._white.numpy(), self._offset, self._no_shrink, DEGREES, products)
        elif (row == row[0]).all():  # a part of one entity costs nothing more
            offset, shrink = (np.ascontiguousarray(table[:, row[0]]) for table in self._tables)
            _multiply(self._white.numpy(), offset, shrink, DEGREES, products)
        else:
            _multiply_trimmed(self._white.numpy(), *self._tables, read_only(row), DEGREES, products)
        mean: Float32s = np.log(products, out=products).sum(0) * (DEGREES / len(self._white))
        return mean


@compiled
def _scale(x, location, scale, limit, out, left):
    """Compute z = (x - location) / scale of the rows x [n, D] one after another in `out`; return how many these are.

    Rows in which a value is missing, or so large that it would be softened, are left out, and marked in `left` [n].
    """
    n, d = x.shape
    done = 0
    for i in range(n):
        row, to = x[i], out[done]
        fine = np.int32(0)
        for j in range(d):
            z = (row[j] - location[j]) / scale[j]
            to[j] = z
            fine += np.int32(abs(z) <= limit)
        left[i] = fine < d
        done += fine == d
    return done


@compiled
def _add(hidden, bias, relu):
    """Add the bias in place, then apply ReLU if asked. (torch.addmm takes a pass of its own over the bias.)"""
    floor = np.float32(0 if relu else -np.inf)
    for i in range(len(hidden)):
        row = hidden[i]
        for j in range(len(bias)):
            row[j] = max(row[j] + bias[j], floor)


@compiled
def _multiply(white, offset, shrink, degrees, out):
    """Fill `out` [D / FACTORS, n] with products of 1 + w^2 / nu.

    w is `white` [D, n] moved by `offset` [D] and multiplied by `shrink` [D].
    """
    inverse = 1 / degrees
    for j in range(len(white)):
        row, to = white[j], out[j // _FACTORS]
        if j % _FACTORS == 0:
            to[:] = 1
        for i in range(len(to)):
            w = np.float64((row[i] + offset[j]) * shrink[j])
            to[i] *= 1 + w * w * inverse


def _warm_up_trims() -> None:
    """Compile, or load, what scores by trims, with buffers of its own: those of a scorer may be in use."""
    table, out = np.zeros((1, 1), np.float32), np.zeros((1, ROWS))
    for n in (1, ROWS):
        white, row = np.zeros((1, ROWS), np.float32), np.zeros(n, np.int64)
        _multiply_trimmed(white, table, table, read_only(row), DEGREES, out[:, :n])


@compiled
def _multiply_trimmed(white, offset, shrink, trim, degrees, out):
    """Do as `_multiply`; row i is moved by `offset` [D, 1 + e] and multiplied by `shrink` [D, 1 + e] of its `trim`."""
    inverse = 1 / degrees
    for j in range(len(white)):
        row, to, offsets, factors = white[j], out[j // _FACTORS], offset[j], shrink[j]
        if j % _FACTORS == 0:
            to[:] = 1
        for i in range(len(to)):
            w = np.float64((row[i] + offsets[trim[i]]) * factors[trim[i]])
            to[i] *= 1 + w * w * inverse

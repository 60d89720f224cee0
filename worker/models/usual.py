"""What was usual in training, by which worker/following tells what has moved since."""

from dataclasses import dataclass

from worker.native.arrays import Float32s


@dataclass(frozen=True, eq=False)
class Usual:
    """`sizes` [D] of whitened residuals that few held-out rows exceed; `middle` and `scale` [d] of single readings.

    These two are as a Scaler has them: readings of the training lie within the square root of 3 of them. (With windows
    the model's own scaler is of coefficients.)
    """

    sizes: Float32s
    middle: Float32s
    scale: Float32s

"""Windows over time: each vector with those of its entity before it.

windows.py defines a window, ring.py keeps it, and worker/models/wavelet.py says what a model sees of it.
"""

from worker.windows.windows import Windowed, Windows, max_gap

__all__ = ["Windowed", "Windows", "max_gap"]

"""Time: each vector with those of its entity before it. windows.py says what a window is, ring.py how it is kept, and
worker/models/wavelet.py what a model sees of it.
"""

from worker.windows.windows import Windowed, Windows

__all__ = ["Windowed", "Windows"]

"""Alignment: readings that come one by one become vectors, on a grid of event time.

aligner.py says what a vector is made of, and grid.py makes it. rhythm.py learns how long a reading holds. silence.py
finds out who has not sent for long.
"""

from worker.alignment.aligner import Aligned, Aligner, warm_up
from worker.alignment.rhythm import hold_times, holds_of
from worker.alignment.silence import Flush, Silence

__all__ = ["Aligned", "Aligner", "Flush", "Silence", "hold_times", "holds_of", "warm_up"]

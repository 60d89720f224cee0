"""Decides which version serves: follows champions, and runs trials of challengers and of champions in probation.

A trial scores the same vectors by a second model: a challenger in the champion's shadow, or the former champion while
the new one is in probation.
"""

from worker.rollout.findings import ShadowEvent, TakenBack
from worker.rollout.trial import Trial
from worker.rollout.trials import Trials

__all__ = ["ShadowEvent", "TakenBack", "Trial", "Trials"]

"""A second model's opinion of the same vectors: a challenger in the champion's shadow, or the former champion while the
new one is in probation.
"""

from worker.trials.found import ShadowEvent, TakenBack
from worker.trials.trial import Trial
from worker.trials.trials import Trials

__all__ = ["ShadowEvent", "TakenBack", "Trial", "Trials"]

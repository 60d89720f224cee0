"""What is in the records of a topic: the features, and the columns that are none."""

from worker.inference.columns import Column, ColumnKind
from worker.inference.features import absent, infer, without_clocks

__all__ = ["Column", "ColumnKind", "absent", "infer", "without_clocks"]

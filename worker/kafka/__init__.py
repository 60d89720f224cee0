"""All there is of Kafka: connections, the source of blocks, the sink that owns the order outputs -> offsets -> commit.

Knows nothing of models. What is read here comes as blocks; what is written goes as `Output`s.
"""

from worker.kafka.faults import Redo
from worker.kafka.sink import AtLeastOnceSink, ExactlyOnceSink, Output, Sink, open_sink
from worker.kafka.source import Source

__all__ = ["AtLeastOnceSink", "ExactlyOnceSink", "Output", "Redo", "Sink", "Source", "open_sink"]

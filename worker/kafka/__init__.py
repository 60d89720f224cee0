"""All there is of Kafka: connections, the source of blocks, the sink that owns the order outputs -> offsets -> commit.

Knows nothing of models. What is read here comes as blocks; what is written goes as `Outputs`.
"""

from worker.kafka.errors import OutsideFault, Rewind
from worker.kafka.outputs import Output, Outputs
from worker.kafka.sink import AtLeastOnceSink, ExactlyOnceSink, Sink, open_sink
from worker.kafka.source import Source

__all__ = [
    "AtLeastOnceSink",
    "ExactlyOnceSink",
    "Output",
    "Outputs",
    "OutsideFault",
    "Rewind",
    "Sink",
    "Source",
    "open_sink",
]

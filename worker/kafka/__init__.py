"""Everything about Kafka: connections, the source of blocks, and the sink that sends outputs and commits offsets.

It knows nothing of models. Records are read as blocks and written as `Outputs`.
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

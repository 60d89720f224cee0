"""What travels through the worker, in columns: blocks of records, blocks of vectors, and what identifies them.

Knows nothing of Kafka, formats or models.
"""

from worker.blocks.bytes_column import BytesColumn, Headers
from worker.blocks.record_block import RecordBlock
from worker.blocks.topic_set import TopicSet
from worker.blocks.vector_block import Reject, VectorBlock

__all__ = ["BytesColumn", "Headers", "RecordBlock", "Reject", "TopicSet", "VectorBlock"]

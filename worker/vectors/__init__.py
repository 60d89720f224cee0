"""Blocks of rows, and the input formats: bytes -> float32 [n, d]. Knows nothing of Kafka or models."""

from worker.vectors.block import BytesColumn, Headers, RecordBlock, Reject, VectorBlock
from worker.vectors.decoder import Decoder

__all__ = ["BytesColumn", "Decoder", "Headers", "RecordBlock", "Reject", "VectorBlock"]

"""The input formats: bytes -> float32 [n, d]. Knows nothing of Kafka or models."""

from worker.decoding.decoder import Decoder
from worker.decoding.vectors import aligner_of, vectors_of

__all__ = ["Decoder", "aligner_of", "vectors_of"]

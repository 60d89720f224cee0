"""The input formats: bytes -> float32 [n, d]. Knows nothing of Kafka or models."""

from worker.decoding.decoder import Decoder

__all__ = ["Decoder"]

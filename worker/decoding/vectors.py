"""From records to vectors: decoded, and aligned if they hold single readings."""

from collections.abc import Sequence

from worker.alignment import Aligned, Aligner, hold_times
from worker.blocks import RecordBlock
from worker.decoding.decoder import Decoder
from worker.settings import EntitySettings, InputSettings


def aligner_of(learned: Sequence[float], width: int, inputs: InputSettings, entities: EntitySettings) -> Aligner | None:
    """Return what makes vectors of readings, None if records hold vectors; `learned` are the hold times of a model."""
    return Aligner(hold_times(inputs, learned, width), inputs, entities) if inputs.align else None


def vectors_of(records: RecordBlock, decoder: Decoder, aligner: Aligner | None) -> Aligned:
    """Return the vectors of the records, or those that their readings close. Raises SchemaRegistryError."""
    if aligner is None:
        return Aligned(decoder.decode(records))
    return aligner.push(decoder.readings(records))

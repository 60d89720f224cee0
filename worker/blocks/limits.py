"""What decoding and Kafka have to agree on."""

import secrets
from typing import Final

MAX_ENTITY_BYTES: Final = 1024  # the name goes into every event, several times

# The content type of a batch that could not be read and is handled as one record. Such a record has the header `BY_US`.
# A sender cannot forge it: its value is random, and dead letters, where he might read it, never contain it.
RECORD_BATCH: Final = "application/vnd.offnormal.record-batch"
REPLAYED: Final = "offnormal-replayed"  # header of a record that `worker replay` has put back
# A content type likewise, of a record that was refused before it was decoded; headers of ours say why.
REFUSED: Final = "application/vnd.offnormal.refused"
BY_US: Final = "offnormal-unread", secrets.token_bytes(16)

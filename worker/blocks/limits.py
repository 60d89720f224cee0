"""What decoding and Kafka have to agree on."""

import secrets
from typing import Final

MAX_ENTITY_BYTES: Final = 1024  # the name goes into every event, several times

# What could not be read, as if it was one record. `BY_US` is in its headers: a sender cannot say it of his records,
# since headers of that name go into no dead letter, where he might look it up.
RECORD_BATCH: Final = "application/vnd.offnormal.record-batch"
BY_US: Final = "offnormal-unread", secrets.token_bytes(16)

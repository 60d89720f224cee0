"""The reasons for which a record is rejected, as in a dead letter's header and the metric, and the error for it."""

from typing import Final

UNPARSEABLE: Final = "unparseable"
WRONG_LENGTH: Final = "wrong-length"
WRONG_TYPE: Final = "wrong-type"
INFINITE: Final = "infinite"
UNKNOWN_KEY: Final = "unknown-key"
BAD_TIME: Final = "bad-time"
BAD_ENTITY: Final = "bad-entity"
UNKNOWN_SCHEMA: Final = "unknown-schema"
UNKNOWN_CONTENT_TYPE: Final = "unknown-content-type"
UNKNOWN_ALIAS: Final = "unknown-alias"
NO_FEATURE: Final = "no-feature"
UNREADABLE: Final = "unreadable-batch"


class Refused(Exception):
    """A record is rejected: the reason, a fixed word, and the error in words."""

    def __init__(self, reason: str, error: str):
        super().__init__(error)
        self.reason = reason

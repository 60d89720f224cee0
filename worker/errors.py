"""The errors a user sees. Each says in one line what is wrong and, where it is not plain, what to do about it, and ends
the process with a fixed exit code.
"""

from typing import Final

ANOTHER_MODEL: Final = "`python -m training` makes another, `python -m training models rollback` goes back to the last"


class OffnormalError(Exception):
    """Root of all errors that end a command with a readable line."""

    exit_code = 1


class SettingsError(OffnormalError):
    """A wrong setting or wrong usage."""

    exit_code = 2


class KafkaError(OffnormalError):
    """Kafka cannot be reached within the start-up limit, refuses access, or lacks a topic."""

    exit_code = 4


class SchemaRegistryError(KafkaError):
    """The schema registry cannot be reached, or refuses."""


class NoModelError(OffnormalError):
    """There is no model, or not enough data to make one."""

    exit_code = 5


class ArtefactError(OffnormalError):
    """A model artefact that must not be served: damaged, forged, too new, or not what it claims to be."""

    def __init__(self, wrong: str, then: str = ANOTHER_MODEL):
        super().__init__(f"{wrong}; {then}")

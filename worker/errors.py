"""The errors that a user sees.

Each says in one line what is wrong and, where it is not plain, what to do about it. It ends the process with a fixed
exit code. Its `code` is in brackets at the end of the line; worker/explanations/codes.md has a paragraph for each.
"""

from typing import Final

ANOTHER_MODEL: Final = (
    "`python -m training` makes a new one, `python -m training models rollback` returns to the previous one"
)


class OffnormalError(Exception):
    """Root of all errors that end a command with a readable line."""

    exit_code = 1
    code = "error"


class SettingsError(OffnormalError):
    """A wrong setting or wrong usage."""

    exit_code = 2
    code = "settings"


class KafkaUnavailable(OffnormalError):
    """Kafka cannot be reached within the start-up limit, refuses access, or lacks a topic."""

    exit_code = 4
    code = "kafka"


class SchemaRegistryError(KafkaUnavailable):
    """The schema registry cannot be reached, or refuses."""

    code = "schema-registry"


class NoModelError(OffnormalError):
    """There is no model, or not enough data to make one."""

    exit_code = 5
    code = "no-model"


class ArtefactError(OffnormalError):
    """A model artefact that must not be served: damaged, forged, too new, or not what it claims to be."""

    code = "artefact"

    def __init__(self, wrong: str, advice: str = ANOTHER_MODEL):
        super().__init__(f"{wrong}; {advice}")

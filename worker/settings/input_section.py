"""The section `input`: how records are read."""

import re
from datetime import UTC, tzinfo
from typing import Annotated, Final
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from worker.settings.fields import Duration, listed, seconds, with_its_package, zone_name
from worker.settings.formats import FormatName
from worker.settings.section import Section

_NO_NAMES: Final = re.compile(r"[-+.\d]+|{.*|true|false", re.IGNORECASE)


class InputSettings(Section):
    """How records are read: format, entity, time, features."""

    format: FormatName = Field("json", description="format of the vectors; a record's content-type header overrides it")
    ignore_content_type: bool = Field(
        False, description="read all records in this format, whatever their content-type header says"
    )
    entity_field: str | None = Field(
        None, description="JSON key that holds the entity; without it the record's key is the entity"
    )
    time_field: str | None = Field(
        None,
        description="JSON key that holds the event time; otherwise the time header, or else the record's timestamp",
    )
    time_header: str | None = Field(
        None, description="Kafka header that holds the event time, as a number or in ISO 8601"
    )
    timezone: Annotated[str, AfterValidator(zone_name)] = Field(
        "UTC", description="time zone of event times without an offset, such as Europe/Berlin"
    )
    step: Annotated[float, BeforeValidator(seconds), Field(ge=0.001)] | None = Field(
        None, description="expected time between two vectors of an entity; a step without one counts as missing"
    )
    max_gap: Annotated[Duration, Field(gt=0)] | None = Field(
        None,
        description="an entity that is silent for longer starts a new window (default: an hour, or about four times the"
        " interval between its vectors that training saw, if that is longer)",
    )
    reorder: int = Field(
        4, ge=0, le=1000, description="how many later vectors of an entity may overtake one before it counts as late"
    )
    strict: bool = Field(False, description="reject records with a JSON key that is no feature")
    reject_empty: bool = Field(False, description="reject records in which none of the model's features is found")
    coerce: bool = Field(
        False, description="read numbers that are written as text, also with a decimal comma, and booleans as 0 and 1"
    )
    features: Annotated[int, Field(gt=0)] | tuple[str, ...] | None = Field(
        None, description="number of features, or their names (a,b or a JSON list), where the data do not name them"
    )

    @property
    def zone(self) -> tzinfo:
        """Return the time zone of event times without an offset."""
        return UTC if self.timezone == "UTC" else ZoneInfo(self.timezone)

    @field_validator("format")
    @classmethod
    def _served(cls, value: str) -> str:
        return with_its_package(value)

    @field_validator("features", mode="before")
    @classmethod
    def _no_flag(cls, value: object) -> object:
        text = value.strip() if isinstance(value, str) else ""
        if text.isdecimal():
            return value
        if isinstance(value, bool) or _NO_NAMES.fullmatch(text):
            raise ValueError("a count, or names with commas, or a JSON list of names")
        return listed(value)

    @field_validator("features")
    @classmethod
    def _named_once(cls, value: int | tuple[str, ...] | None) -> int | tuple[str, ...] | None:
        if isinstance(value, tuple) and (not value or len(set(value)) < len(value)):
            raise ValueError("list at least one feature, and each name only once")
        return value

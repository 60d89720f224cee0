"""The section `input`: how records are read."""

import re
from datetime import UTC, tzinfo
from typing import Annotated, Final
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import NoDecode

from worker.settings.fields import Duration, listed, seconds, with_its_package, zone_name
from worker.settings.formats import FORMATS, FormatName
from worker.settings.section import Section
from worker.settings.shapes import SHAPES, ShapeName

_ARRAY: Final = re.compile(r"(?:[^\[\]]*\[\](?:\.|$))?[^\[\]]*")  # at most one array, without an index


def _path(text: str) -> str:
    """Return a field's path. Raises ValueError where it is none."""
    if not text or not _ARRAY.fullmatch(text) or ".." in f".{text}." or ".[" in text:
        raise ValueError("a path such as tags.host, or metrics[].fields of the elements of an array")
    return text


def _array(path: str) -> str | None:
    """Return the path of the array in a path; None if there is none."""
    array, bracket, _ = path.partition("[]")
    return array if bracket else None


MOST_STEPS_LATE: Final = 60
FieldPath = Annotated[str, AfterValidator(_path)]
_NO_NAMES: Final = re.compile(r"[-+.\d]+|{.*|true|false", re.IGNORECASE)


class InputSettings(Section):
    """How records are read: format, entity, time, features."""

    format: FormatName = Field("json", description="format of the vectors; a record's content-type header overrides it")
    ignore_content_type: bool = Field(
        False, description="read all records in this format, whatever their content-type header says"
    )
    shape: ShapeName = Field(
        "vector",
        description="how readings lie in a record: a name for a set of the fields below, each of which may be set too",
    )
    values_field: FieldPath | None = Field(
        None, description="field that holds the readings, where it is not the record itself, such as payload.data"
    )
    tag_field: FieldPath | None = Field(
        None,
        description="field with the name of each reading, where these lie in an array, such as metrics[].name; or of"
        " the record's one reading, with align",
    )
    value_field: FieldPath | None = Field(
        None, description="field with the value of each reading, beside the tag field, such as metrics[].value"
    )
    quality_field: FieldPath | None = Field(
        None, description="field with the quality of each reading, with align; of bad quality it counts as missing"
    )
    good: Annotated[tuple[str, ...] | None, BeforeValidator(listed), NoDecode] = Field(
        None, description="qualities that are good (default: Good..., true, and OPC's 192 to 255), such as 0,good"
    )
    entity_field: FieldPath | None = Field(
        None, description="field that holds the entity, such as tags.host; without it the record's key is the entity"
    )
    time_field: FieldPath | None = Field(
        None, description="field that holds the event time; otherwise the time header, or else the record's timestamp"
    )
    mqtt_topic_header: str | None = Field(
        None,
        description="with shape sparkplug: Kafka header with the MQTT topic; otherwise it is the record's key",
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
    align: bool = Field(
        False,
        description="make vectors of readings that come one by one, or in parts: one at each step of event time, of the"
        " last reading of each tag",
    )
    hold: Annotated[Duration, Field(gt=0)] | None = Field(
        None, description="how long a reading counts, with align (default: learned from each tag's own rhythm)"
    )
    lateness: Annotated[Duration, Field(ge=0)] | None = Field(
        None, description="how much later than newer ones a reading of an entity may come, with align (default: a step)"
    )
    idle: Annotated[Duration, Field(gt=0)] | None = Field(
        None,
        description="after how long a silence of an entity its last vector is made, with align (default: a minute, or"
        " ten steps if that is longer)",
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

    @model_validator(mode="before")
    @classmethod
    def _of_shape(cls, values: object) -> object:
        """Set the fields of a named shape that are not set otherwise."""
        if not isinstance(values, dict):
            return values
        paths = next((paths for name, paths in SHAPES.items() if name == values.get("shape")), {})
        return {**paths, **values}

    @model_validator(mode="after")
    def _readings_are_told(self) -> "InputSettings":
        if (self.tag_field is None) != (self.value_field is None):
            raise ValueError("tag_field and value_field are needed both or neither")
        if self.tag_field is not None and self.value_field is not None:
            if self.values_field is not None:
                raise ValueError("set values_field, or tag_field and value_field, but not both")
            if _array(self.tag_field) not in (None, _array(self.value_field)):
                raise ValueError("tag_field and value_field lie in one array: such as metrics[].name, metrics[].value")
            if "[]" not in self.tag_field and not self.align:
                raise ValueError("a record with one tag needs align=true, which makes vectors of its readings")
        if not FORMATS[self.format].has_documents and (self.tag_field or self.values_field):
            raise ValueError(f"shape, values_field and tag_field are for documents, not for {self.format}")
        array = _array(self.value_field or self.values_field or "")
        for path in (self.entity_field, self.time_field, self.quality_field):
            if path is not None and _array(path) not in (None, array):
                raise ValueError(f"{path} is in another array than the readings")
        return self

    @model_validator(mode="after")
    def _sparkplug_can_be_read(self) -> "InputSettings":
        if self.is_sparkplug:
            with_its_package("protobuf")
            if self.format != "json":
                raise ValueError(f"shape sparkplug is a format of its own: leave format unset, not {self.format}")
        elif self.mqtt_topic_header is not None:
            raise ValueError("mqtt_topic_header is for shape sparkplug alone")
        return self

    @property
    def is_sparkplug(self) -> bool:
        """Return whether records are Sparkplug B's protobuf."""
        return self.shape == "sparkplug"

    @model_validator(mode="after")
    def _grid_is_told(self) -> "InputSettings":
        aligned = {"hold": self.hold, "lateness": self.lateness, "idle": self.idle, "quality_field": self.quality_field}
        if not self.align:
            if given := [name for name, value in aligned.items() if value is not None]:
                raise ValueError(f"{', '.join(given)}: only with align=true")
            return self
        if self.step is None:
            raise ValueError("align needs step: the time between two vectors, such as 1s")
        if self.quality_field is not None and self.tag_field is None:
            raise ValueError("quality_field needs tag_field: it is the quality of one reading")
        if self.allowed_lateness > MOST_STEPS_LATE * self.step:
            raise ValueError(f"lateness may be at most {MOST_STEPS_LATE} steps: take a longer step")
        if self.silence < self.allowed_lateness:
            raise ValueError("idle is at least the lateness")
        if self.hold is not None and self.hold < self.step:
            raise ValueError("hold is at least a step")
        return self

    @property
    def allowed_lateness(self) -> float:
        """Return how many seconds late a reading may come. Only with `align`."""
        return self.lateness if self.lateness is not None else self.step or 0.0

    @property
    def silence(self) -> float:
        """Return the seconds of silence after which an entity's last vector is made. Only with `align`."""
        return self.idle if self.idle is not None else max(60.0, 10 * (self.step or 0.0), self.allowed_lateness)

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

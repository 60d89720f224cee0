"""Where the readings, the entity and the time lie in a document of the formats that have documents.

A field of a nested object is called by its path: `tags.host` is the field `host` of the object `tags`. If a key is
itself spelled `tags.host`, that key counts. `[]` stands after an array, each element of which is a row:
`metrics[].fields`.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from worker.blocks.limits import MAX_ENTITY_BYTES
from worker.decoding.dead_letter_reasons import BAD_ENTITY, WRONG_LENGTH, WRONG_TYPE, Refused
from worker.decoding.format import FeatureSchema

# `flat` does not look deeper, and leaves out longer paths: names made of names could grow to any size.
DEEPEST: Final = 8
_LONGEST: Final = 200  # characters of a path
CONNECT: Final = {"schema", "payload"}
_TYPES: Final = {
    "doubleValue",
    "integerValue",
    "booleanValue",
    "stringValue",
}  # a value in an object that names its type


class Rows(NamedTuple):
    """The rows of one document: `readings` is an array or an object for each row.

    The fields of row k lie in `elements[k]`, or else in `document`; in `document` alone, where a path with `[]` could
    name those of the elements. If readings are pairs of a tag and a value, they make one row, and each has an element.
    """

    readings: list[Any]
    elements: list[Any]
    document: Any


class Shape:
    """Finds the rows of documents, and their fields."""

    def __init__(self, schema: FeatureSchema):
        self._has_values_key = "values" not in schema.features
        self._tag, self._values = schema.tag_field, schema.values_field
        self._array, self._within = _split(schema.value_field or schema.values_field or "")
        tag_array, self._tag_within = _split(schema.tag_field or "")
        self._has_one_tag = tag_array is None and self._array is not None  # all values of a record

    @property
    def prefix(self) -> str | None:
        """Return what the names of readings begin with in the paths of a document.

        It is None if they lie in an array, or are tags.
        """
        if self._array is not None or self._tag is not None:
            return None
        return f"{self._values}." if self._values else ""

    def rows(self, document: Any) -> Rows:
        """Return the rows of a document. Raises Refused."""
        payload = unwrapped(document)
        if payload is None and document is not None:
            return Rows([], [], payload)
        if self._tag is not None:
            found = self.tagged_rows(payload)
            return Rows([self._tagged(found)], found.elements, payload)
        if self._array is not None:
            elements = _elements(payload, self._array)
            return Rows([self._readings(element) for element in elements], elements, payload)
        if not self._values or type(payload) is list:
            readings, elements = self._plain(payload)
            return Rows(readings, elements or [payload] * len(readings), payload)
        inner = at(payload, self._values)
        if inner is None:  # null, as in the record of a deletion, has no readings; without the field they are missing
            count = 0 if type(payload) is dict and self._values in payload else 1
            return Rows([{}] * count, [payload] * count, payload)
        readings, elements = self._plain(inner)
        return Rows(readings, elements or [payload] * len(readings), payload)

    def tagged_rows(self, document: Any) -> Rows:
        """Return the elements with a tag and a value each; one of them if they do not lie in an array. Raises Refused.

        There are no `readings`.
        """
        payload = unwrapped(document)
        if self._array is not None:
            return Rows([], _elements(payload, self._array), payload)
        if type(payload) is not dict:
            raise Refused(WRONG_TYPE, f"no object, but {type(payload).__name__}")
        return Rows([], [payload], payload)

    def tags(self, rows: Rows) -> Iterator[tuple[str, Any]]:
        """Yield the tag and the value of each element. Raises Refused."""
        common = at(rows.document, self._tag_within) if self._has_one_tag else None
        for element in rows.elements:
            tag = common if self._has_one_tag else at(element, self._tag_within)
            if type(tag) not in (str, int):
                raise Refused(WRONG_TYPE, f"{self._tag} is neither a string nor an integer")
            value = at(element, self._within)
            if type(value) is dict and len(value) == 1 and value.keys() <= _TYPES:
                (value,) = value.values()
            yield str(tag), value

    def fields(self, rows: Rows, path: str) -> list[Any]:
        """Return the values of a field, one for each element; None where it is missing."""
        array, within = _split(path)
        if array is not None:
            return [at(element, within) for element in rows.elements]
        common = at(rows.document, path)
        if self._array is not None or not rows.elements or rows.elements[0] is rows.document:
            return [common] * len(rows.elements)
        values = [at(element, path) for element in rows.elements]
        return [common if value is None else value for value in values]

    def _plain(self, document: Any) -> tuple[list[Any], list[Any]]:
        """Return the rows of a value, and the elements that they come from, if each has its own."""
        if type(document) is dict:
            inner = document.get("values") if self._has_values_key else None
            if type(inner) is list:
                return self._plain(inner)
            return [inner if type(inner) is dict else document], []
        if type(document) is not list:
            raise Refused(WRONG_TYPE, f"neither an array nor an object, but {type(document).__name__}")
        if not document:
            raise Refused(WRONG_LENGTH, "an empty array")
        kind = type(document[0])
        if kind not in (list, dict):
            return [document], []
        if any(type(row) is not kind for row in document):
            raise Refused(WRONG_TYPE, f"an array of {'arrays' if kind is list else 'objects'} holds something else")
        return document, document if kind is dict else []

    def _readings(self, element: Any) -> Any:
        readings = at(element, self._within) if self._within else element
        if type(readings) not in (dict, list):
            raise Refused(WRONG_TYPE, f"{self._values} is neither an array nor an object in each row")
        return readings

    def _tagged(self, rows: Rows) -> dict[str, Any]:
        """Return the readings of the elements by tag; of several with one tag, the last."""
        try:  # as nearly all are
            readings = {element[self._tag_within]: element[self._within] for element in rows.elements}
            if set(map(type, readings)) <= {str} and dict not in map(type, readings.values()):
                return readings
        except (KeyError, TypeError):
            pass
        return dict(self.tags(rows))


def at(document: Any, path: str) -> Any:
    """Return the value of a field; None where there is none."""
    if type(document) is not dict:
        return None
    if path in document:
        return document[path]
    dot = path.find(".")
    while dot >= 0:
        value = at(document.get(path[:dot]), path[dot + 1 :])
        if value is not None:
            return value
        dot = path.find(".", dot + 1)
    return None


def entity_of(shape: Shape, rows: Rows, path: str) -> str | None:
    """Return the one entity of all rows, None if they name none. Raises Refused."""
    values = [value for value in shape.fields(rows, path) if value is not None]
    if not values:
        return None
    if any(type(value) not in (str, int) for value in values):
        raise Refused(BAD_ENTITY, f"{path} is neither a string nor an integer")
    names = {str(values[0])} if all(value is values[0] for value in values) else set(map(str, values))
    if len(names) > 1:
        raise Refused(BAD_ENTITY, f"{len(names)} values of {path} in one record: all rows must belong to one entity")
    entity = names.pop()
    if not entity.isascii():
        try:
            entity.encode()
        except UnicodeEncodeError:  # half of a character
            raise Refused(BAD_ENTITY, f"{path} is no valid text") from None
    if len(entity) * 4 > MAX_ENTITY_BYTES and len(entity.encode("utf-8", "replace")) > MAX_ENTITY_BYTES:
        raise Refused(BAD_ENTITY, f"{path} is longer than {MAX_ENTITY_BYTES} bytes")
    return entity


def flat(document: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an object and of the objects in it, by path."""
    return dict(_flat(document, "", 0)) if dict in map(type, document.values()) else document


def _flat(document: dict[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        path = prefix + key
        if len(path) > _LONGEST and prefix:
            continue
        if type(value) is dict and value and depth < DEEPEST:
            yield from _flat(value, path + ".", depth + 1)
        else:
            yield path, value


def unwrapped(document: Any) -> Any:
    """Return the payload of a document that Kafka Connect's JsonConverter has put beside its schema."""
    if type(document) is dict and document.keys() == CONNECT and type(document["schema"]) in (dict, type(None)):
        return document["payload"]
    return document


def _elements(document: Any, array: str) -> list[Any]:
    elements = at(document, array) if array else document
    if type(elements) is not list:
        found = "missing" if elements is None else f"no array, but {type(elements).__name__}"
        raise Refused(WRONG_TYPE, f"{array or 'the record'} is {found}")
    if not elements:
        raise Refused(WRONG_LENGTH, "an empty array")
    return elements


def _split(path: str) -> tuple[str | None, str]:
    """Return the path of the array in a path, and the path within its elements; None if there is no array."""
    array, bracket, within = path.rpartition("[]")
    return (array, within.removeprefix(".")) if bracket else (None, path)

"""A client of a schema registry (Confluent's API, which Apicurio, Karapace and Redpanda serve too).

It fetches the schemas that records of Avro and Protobuf were written by, and registers ours.
"""

import base64
import http.client
import json
import ssl
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

import structlog

from worker.errors import SchemaRegistryError
from worker.http_client import fetch
from worker.settings import SchemaRegistrySettings, Settings

log = structlog.get_logger()

Schema = Any  # as JSON has it

_LAST_ID: Final = 2**31 - 1
_FORGOTTEN_AFTER: Final = 600.0  # seconds that a schema is known not to be there
_LOGIN: Final = "check OFFNORMAL_SCHEMA_REGISTRY__USERNAME and OFFNORMAL_SCHEMA_REGISTRY__PASSWORD"
_MOST_UNKNOWN: Final = 100_000
_LARGEST: Final = 4 * 2**20  # bytes of an answer
_DEEPEST: Final = 20  # references of references
_MOST_REFERENCES: Final = 200  # of one schema, those of references with them: each is a request
_WAIT: Final = 0.5  # seconds between two tries
_UNKNOWN: Final = (40401, 40402, 40403)  # subject, version, schema


Language = Literal["AVRO", "PROTOBUF"]


class UnknownSchema(Exception):
    """The registry has no such schema, or one in another language."""


class SchemaText(NamedTuple):
    """A schema as it was registered, and those that it refers to, by name."""

    text: str
    references: Mapping[str, str]


class SchemaRegistry:
    """A client that requests each schema once.

    `patience` is for how many seconds requests to an unavailable registry are repeated.
    """

    def __init__(self, settings: SchemaRegistrySettings, patience: float = 0.0):
        self._settings, self._patience = settings, patience
        # By the language as well: whoever sends a record chooses the language in which its schema is looked for.
        self._schemas: dict[tuple[int, Language], SchemaText] = {}
        self._unknown: dict[tuple[int, Language], tuple[float, str]] = {}

    @classmethod
    def of(cls, settings: Settings, patience: float = 0.0) -> "SchemaRegistry | None":
        """Return the client that the settings name; None if they name none."""
        return None if settings.schema_registry.url is None else cls(settings.schema_registry, patience)

    def schema(self, id: int) -> tuple[Schema, Mapping[str, Schema]]:
        """Return a schema of Avro, and those that it refers to, by name.

        Raises UnknownSchema, and SchemaRegistryError where the registry is away.
        """
        found = self.text(id, "AVRO")
        return _avro(found.text), {name: _avro(text) for name, text in found.references.items()}

    def text(self, id: int, language: Language) -> SchemaText:
        """Return a schema in its own language.

        Raises UnknownSchema, and SchemaRegistryError where the registry is away.
        """
        if not 0 < id <= _LAST_ID:  # else it may take the number for a path that is none of its own
            raise UnknownSchema(f"no schema has the number {id}")
        key = id, language
        if key in self._schemas:
            return self._schemas[key]
        since, reason = self._unknown.get(key, (0.0, ""))
        if time.monotonic() - since < _FORGOTTEN_AFTER and reason:
            raise UnknownSchema(reason)
        try:
            answer = self._ask("GET", f"/schemas/ids/{id}")
            references: dict[str, str] = {}
            self._refer(answer, language, references, iter(range(_MOST_REFERENCES)))
            self._schemas[key] = SchemaText(_text(answer, language), references)
        except UnknownSchema as error:
            if len(self._unknown) >= _MOST_UNKNOWN:
                del self._unknown[next(iter(self._unknown))]  # the oldest
            self._unknown[key] = time.monotonic(), str(error)
            raise
        return self._schemas[key]

    def subjects(self) -> list[str]:
        """Return the subjects. Raises SchemaRegistryError."""
        try:
            subjects: Any = self._ask("GET", "/subjects")
        except UnknownSchema as error:
            raise SchemaRegistryError(f"{self._settings.url} is no schema registry: {error}") from None
        if not isinstance(subjects, list):
            raise SchemaRegistryError(f"{self._settings.url} is no schema registry: its subjects are no list")
        return [str(name) for name in subjects]

    def register(self, subject: str, schema: Schema) -> int:
        """Register a schema; return its id, the same for a schema that is there. Raises SchemaRegistryError."""
        body = {"schema": json.dumps(schema)}
        try:
            answer = self._ask("POST", f"/subjects/{urllib.parse.quote(subject, safe='')}/versions", body)
            return int(answer["id"])
        except (UnknownSchema, KeyError, TypeError, ValueError, OverflowError) as error:
            raise SchemaRegistryError(f"{self._settings.url} does not take the schema of {subject}: {error}") from None

    def _refer(
        self, answer: Any, language: Language, references: dict[str, str], left: Iterator[int], depth: int = 0
    ) -> None:
        """Add the schemas that the answer refers to. Raises UnknownSchema, SchemaRegistryError.

        `left` are the requests that may still be made for it.
        """
        listed = (answer.get("references") or ()) if isinstance(answer, dict) else ()
        if not isinstance(listed, list | tuple):
            raise UnknownSchema("references that are no list")
        for reference in listed:
            if depth > _DEEPEST:
                raise UnknownSchema(f"references more than {_DEEPEST} deep")
            try:
                subject = urllib.parse.quote(str(reference["subject"]), safe="")
                name, version = str(reference["name"]), int(reference["version"])
            except (KeyError, TypeError, ValueError, OverflowError):
                raise UnknownSchema("a reference without name, subject or version") from None
            if name not in references:
                if next(left, None) is None:
                    raise UnknownSchema(f"more than {_MOST_REFERENCES} references")
                referenced = self._ask("GET", f"/subjects/{subject}/versions/{version}")
                self._refer(referenced, language, references, left, depth + 1)
                references[name] = _text(referenced, language)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the registry. Raises UnknownSchema if it lacks the schema, SchemaRegistryError if it does not answer."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return self._once(method, path, body)
            except SchemaRegistryError as error:
                if time.monotonic() + _WAIT > deadline:
                    raise
                log.warning("schema_registry_failed", error=str(error))
                time.sleep(_WAIT)

    def _once(self, method: str, path: str, body: Any) -> Any:
        settings = self._settings
        assert settings.url is not None
        request = urllib.request.Request(settings.url.rstrip("/") + path, method=method)
        request.add_header("Accept", "application/vnd.schemaregistry.v1+json, application/json")
        if settings.username and settings.password:
            login = f"{settings.username}:{settings.password.get_secret_value()}".encode()
            # The credentials are not sent to the target of a redirect.
            request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(login).decode()}")
        if body is not None:
            request.add_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            request.data = json.dumps(body).encode()
        where = f"the schema registry at {settings.url}"
        try:
            context = ssl.create_default_context(cafile=settings.ca_file) if settings.url.startswith("https:") else None
            status, text = fetch(request, settings.timeout, context, _LARGEST)
            if status == 200:
                if len(text) > _LARGEST:
                    raise UnknownSchema(f"a schema of more than {_LARGEST} bytes")
                return json.loads(text)
        # http.client's own errors are no OSErrors: an incomplete response, or no HTTP. A ValueError means no JSON.
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            reason = _line(getattr(error, "reason", error)) or type(error).__name__
            raise SchemaRegistryError(
                f"{where} does not answer: {reason}; check OFFNORMAL_SCHEMA_REGISTRY__URL"
            ) from None
        detail = _line(text[:1000].decode("utf-8", "replace"))
        if status == 404 and any(str(code) in detail for code in _UNKNOWN):
            raise UnknownSchema(f"{where} has no {path.lstrip('/')}")
        if status in (409, 422) and body is not None:
            raise UnknownSchema(detail)
        hint = f"; {_LOGIN}" if status in (401, 403) else ""
        raise SchemaRegistryError(f"{where} answers {status} to {path}: {detail}{hint}")


def _line(text: object) -> str:
    """Return one line, not a long one, of whatever the other side has sent."""
    return " ".join(str(text).split())[:200]


def _text(answer: Any, language: Language) -> str:
    """Return the schema of an answer. Raises UnknownSchema if it is in another language, or none."""
    try:
        if answer.get("schemaType", "AVRO") != language:
            raise UnknownSchema(f"a schema of {str(answer.get('schemaType', 'AVRO'))[:40]}, not of {language}")
        text = answer["schema"]
    except (AttributeError, KeyError) as error:
        raise UnknownSchema(f"no schema: {error!r}") from None
    if not isinstance(text, str):
        raise UnknownSchema(f"no schema, but {type(text).__name__}")
    return text


def _avro(text: str) -> Schema:
    """Return the schema that a text is. Raises UnknownSchema."""
    try:
        return json.loads(text) if text.lstrip()[:1] in ("{", "[", '"') else text.strip()
    except (ValueError, RecursionError) as error:
        raise UnknownSchema(f"no schema: {error!r}") from None

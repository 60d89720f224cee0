"""A schema registry (Confluent's API, which Apicurio, Karapace and Redpanda serve too): what Avro records were written
by, and what ours are.
"""

import base64
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any, Final

import structlog

from worker.errors import SchemaRegistryError
from worker.settings import SchemaRegistrySettings, Settings

log = structlog.get_logger()

Schema = Any  # as JSON has it

_LAST_ID: Final = 2**31 - 1
_FORGOTTEN_AFTER: Final = 600.0  # seconds that a schema is known not to be there
_LOGIN: Final = "OFFNORMAL_SCHEMA_REGISTRY__USERNAME and OFFNORMAL_SCHEMA_REGISTRY__PASSWORD say who asks"
_MOST_UNKNOWN: Final = 100_000
_LARGEST: Final = 4 * 2**20  # bytes of an answer
_DEEPEST: Final = 20  # references of references
_WAIT: Final = 0.5  # seconds between two tries
_UNKNOWN: Final = (40401, 40402, 40403)  # subject, version, schema


class UnknownSchema(Exception):
    """The registry has no such schema, or none of Avro."""


class SchemaRegistry:
    """Asks once for each schema. `patience` is how many seconds a registry that is away is tried again for."""

    def __init__(self, settings: SchemaRegistrySettings, patience: float = 0.0):
        self._settings, self._patience = settings, patience
        self._schemas: dict[int, tuple[Schema, Mapping[str, Schema]]] = {}
        self._unknown: dict[int, tuple[float, str]] = {}

    @classmethod
    def of(cls, settings: Settings, patience: float = 0.0) -> "SchemaRegistry | None":
        """None where the settings name none."""
        return None if settings.schema_registry.url is None else cls(settings.schema_registry, patience)

    def schema(self, id: int) -> tuple[Schema, Mapping[str, Schema]]:
        """The schema, and those that it refers to, by name. Raises UnknownSchema, and SchemaRegistryError where the
        registry is away.
        """
        if not 0 < id <= _LAST_ID:  # else it may take the number for a path that is none of its own
            raise UnknownSchema(f"no schema has the number {id}")
        if id in self._schemas:
            return self._schemas[id]
        since, told = self._unknown.get(id, (0.0, ""))
        if time.monotonic() - since < _FORGOTTEN_AFTER and told:
            raise UnknownSchema(told)
        try:
            answer = self._ask("GET", f"/schemas/ids/{id}")
            references: dict[str, Schema] = {}
            self._refer(answer, references, 0)
            self._schemas[id] = _avro(answer), references
        except UnknownSchema as error:
            if len(self._unknown) >= _MOST_UNKNOWN:
                del self._unknown[next(iter(self._unknown))]  # the oldest
            self._unknown[id] = time.monotonic(), str(error)
            raise
        return self._schemas[id]

    def subjects(self) -> list[str]:
        """Raises SchemaRegistryError."""
        try:
            found: Any = self._ask("GET", "/subjects")
            return [str(name) for name in found]
        except (UnknownSchema, TypeError) as error:
            raise SchemaRegistryError(f"{self._settings.url} is no schema registry: {error}") from None

    def register(self, subject: str, schema: Schema) -> int:
        """Its id; the same for a schema that is there. Raises SchemaRegistryError."""
        body = {"schema": json.dumps(schema)}
        try:
            answer = self._ask("POST", f"/subjects/{urllib.parse.quote(subject, safe='')}/versions", body)
            return int(answer["id"])
        except (UnknownSchema, KeyError, TypeError, ValueError) as error:
            raise SchemaRegistryError(f"{self._settings.url} does not take the schema of {subject}: {error}") from None

    def _refer(self, answer: Any, references: dict[str, Schema], depth: int) -> None:
        for reference in answer.get("references") or () if isinstance(answer, dict) else ():
            if depth > _DEEPEST:
                raise UnknownSchema(f"references more than {_DEEPEST} deep")
            try:
                subject = urllib.parse.quote(str(reference["subject"]), safe="")
                name, version = str(reference["name"]), int(reference["version"])
            except (KeyError, TypeError, ValueError):
                raise UnknownSchema("a reference without name, subject or version") from None
            if name not in references:
                found = self._ask("GET", f"/subjects/{subject}/versions/{version}")
                self._refer(found, references, depth + 1)
                references[name] = _avro(found)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        """Raises UnknownSchema where the registry says so, SchemaRegistryError where it does not answer."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return self._once(method, path, body)
            except SchemaRegistryError as error:
                if time.monotonic() + _WAIT > deadline:
                    raise
                log.warning("schema_registry_away", error=str(error))
                time.sleep(_WAIT)

    def _once(self, method: str, path: str, body: Any) -> Any:
        settings = self._settings
        assert settings.url is not None
        request = urllib.request.Request(settings.url.rstrip("/") + path, method=method)
        request.add_header("Accept", "application/vnd.schemaregistry.v1+json, application/json")
        if settings.username and settings.password:
            login = f"{settings.username}:{settings.password.get_secret_value()}".encode()
            # Not to where it may be redirected to.
            request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(login).decode()}")
        if body is not None:
            request.add_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            request.data = json.dumps(body).encode()
        where = f"the schema registry at {settings.url}"
        try:
            context = ssl.create_default_context(cafile=settings.ca_file) if settings.url.startswith("https:") else None
            with urllib.request.urlopen(request, timeout=settings.timeout, context=context) as answer:
                text = answer.read(_LARGEST + 1)
            if len(text) > _LARGEST:
                raise UnknownSchema(f"a schema of more than {_LARGEST} bytes")
            return json.loads(text)
        except urllib.error.HTTPError as error:
            told = error.read(1000).decode("utf-8", "replace")
            if error.code == 404 and any(str(code) in told for code in _UNKNOWN):
                raise UnknownSchema(f"{where} has no {path.lstrip('/')}") from None
            if error.code in (409, 422) and body is not None:
                raise UnknownSchema(told) from None
            hint = f"; {_LOGIN}" if error.code in (401, 403) else ""
            raise SchemaRegistryError(f"{where} answers {error.code} to {path}: {told[:200]}{hint}") from None
        except (OSError, ValueError, RecursionError) as error:  # a ValueError: it is no JSON
            reason = getattr(error, "reason", error)
            raise SchemaRegistryError(
                f"{where} does not answer: {reason}; is OFFNORMAL_SCHEMA_REGISTRY__URL right?"
            ) from None


def _avro(answer: Any) -> Schema:
    """Raises UnknownSchema."""
    try:
        if answer.get("schemaType", "AVRO") != "AVRO":
            raise UnknownSchema(f"a schema of {str(answer['schemaType'])[:40]}, not of Avro")
        text = answer["schema"]
        return json.loads(text) if text.lstrip()[:1] in ("{", "[", '"') else text.strip()
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UnknownSchema(f"no schema: {error!r}") from None

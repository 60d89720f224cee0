"""A client of a schema registry (Confluent's API, which Apicurio, Karapace and Redpanda serve too).

It fetches the schemas that Avro records were written by, and registers ours.
"""

import base64
import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, Final

import structlog

from worker.errors import SchemaRegistryError
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


class UnknownSchema(Exception):
    """The registry has no such schema, or none of Avro."""


class SchemaRegistry:
    """A client that requests each schema once.

    `patience` is for how many seconds requests to an unavailable registry are repeated.
    """

    def __init__(self, settings: SchemaRegistrySettings, patience: float = 0.0):
        self._settings, self._patience = settings, patience
        self._schemas: dict[int, tuple[Schema, Mapping[str, Schema]]] = {}
        self._unknown: dict[int, tuple[float, str]] = {}

    @classmethod
    def of(cls, settings: Settings, patience: float = 0.0) -> "SchemaRegistry | None":
        """Return the client that the settings name; None if they name none."""
        return None if settings.schema_registry.url is None else cls(settings.schema_registry, patience)

    def schema(self, id: int) -> tuple[Schema, Mapping[str, Schema]]:
        """Return a schema, and those that it refers to, by name.

        Raises UnknownSchema, and SchemaRegistryError where the registry is away.
        """
        if not 0 < id <= _LAST_ID:  # else it may take the number for a path that is none of its own
            raise UnknownSchema(f"no schema has the number {id}")
        if id in self._schemas:
            return self._schemas[id]
        since, reason = self._unknown.get(id, (0.0, ""))
        if time.monotonic() - since < _FORGOTTEN_AFTER and reason:
            raise UnknownSchema(reason)
        try:
            answer = self._ask("GET", f"/schemas/ids/{id}")
            references: dict[str, Schema] = {}
            self._refer(answer, references, iter(range(_MOST_REFERENCES)))
            self._schemas[id] = _avro(answer), references
        except UnknownSchema as error:
            if len(self._unknown) >= _MOST_UNKNOWN:
                del self._unknown[next(iter(self._unknown))]  # the oldest
            self._unknown[id] = time.monotonic(), str(error)
            raise
        return self._schemas[id]

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

    def _refer(self, answer: Any, references: dict[str, Schema], left: Iterator[int], depth: int = 0) -> None:
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
                self._refer(referenced, references, left, depth + 1)
                references[name] = _avro(referenced)

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
            status, text = _answer(request, settings.timeout, context)
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


def _answer(request: urllib.request.Request, timeout: float, context: ssl.SSLContext | None) -> tuple[int, bytes]:
    """Return status (200 for every success) and body, at most one byte longer than the limit.

    Raises OSError, HTTPException and ValueError; TimeoutError where not all of it arrives within `timeout` seconds.
    """
    with _Clock(timeout) as clock:
        opener = urllib.request.build_opener(_Plain(clock), _Secure(clock, context), _SentOn())
        try:
            with opener.open(request, timeout=timeout) as answer:
                status_and_body = 200, answer.read(_LARGEST + 1)
                if answer.length and len(status_and_body[1]) <= _LARGEST:  # a read of so many bytes does not mind
                    raise http.client.IncompleteRead(status_and_body[1], answer.length)
        except urllib.error.HTTPError as error:
            with error:
                status_and_body = error.code, error.read(_LARGEST + 1)
    return status_and_body


class _Clock:
    """Closes connections that have not answered in time. A socket's own timeout begins anew with each byte."""

    def __init__(self, timeout: float):
        self._timeout, self._is_over = timeout, False
        self._sockets: list[socket.socket] = []  # several, where it is sent on
        self._lock = threading.Lock()
        self._timer = threading.Timer(timeout, self._ring)
        self._timer.daemon = True

    def __enter__(self) -> "_Clock":
        self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Raise TimeoutError instead of the effect of hanging up, which may look like the end of the response.

        A socket that was silent for as long may be the first to time out.
        """
        self._timer.cancel()
        with self._lock:
            self._sockets.clear()
            if self._is_over or (kind is not None and issubclass(kind, TimeoutError)):
                raise TimeoutError(f"no whole answer within {self._timeout:g} s") from None

    def watch(self, connected: socket.socket) -> None:
        with self._lock:
            self._sockets.append(connected)
            if self._is_over:
                _hang_up(connected)

    def _ring(self) -> None:
        with self._lock:
            self._is_over = True
            for sock in self._sockets:
                _hang_up(sock)


def _hang_up(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # Not the shutdown of the TLS socket, which takes away what another thread is reading from.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


class _Plain(urllib.request.HTTPHandler):
    """Makes connections whose sockets the clock watches."""

    def __init__(self, clock: _Clock):
        super().__init__()
        self._connection = _watched(http.client.HTTPConnection, clock)

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(self._connection, request)


class _Secure(urllib.request.HTTPSHandler):
    """The same by TLS."""

    def __init__(self, clock: _Clock, context: ssl.SSLContext | None):
        super().__init__(context=context)
        self._connection, self._tls = _watched(http.client.HTTPSConnection, clock), context

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(self._connection, request, context=self._tls)


class _SentOn(urllib.request.HTTPRedirectHandler):
    """Follows redirects over HTTP only, and not out of TLS. Does not read their bodies, which have no size limit."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith("https:" if req.type == "https" else ("http:", "https:")):
            raise OSError(f"it redirects to {newurl[:200]}, which is not allowed")
        fp.close()
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _watched(kind: type[http.client.HTTPConnection], clock: _Clock) -> Any:
    class Watched(kind):  # type: ignore[misc,valid-type]
        """Shows the clock each socket that it gets: to a proxy, to where that leads, under TLS."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "sock" and value is not None:
                clock.watch(value)

    return Watched


def _avro(answer: Any) -> Schema:
    """Return the Avro schema of an answer. Raises UnknownSchema."""
    try:
        if answer.get("schemaType", "AVRO") != "AVRO":
            raise UnknownSchema(f"a schema of {str(answer['schemaType'])[:40]}, not of Avro")
        text = answer["schema"]
        return json.loads(text) if text.lstrip()[:1] in ("{", "[", '"') else text.strip()
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UnknownSchema(f"no schema: {error!r}") from None

"""The HTTP routes of the page. No response echoes its request, and each says what a browser may do with it."""

import hashlib
import threading
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any, Final
from urllib.parse import parse_qs

import orjson
import structlog

from worker.blocks import TopicSet
from worker.blocks.vector_id import VectorId
from worker.errors import OffnormalError
from worker.observability.http_server import Health, Request, Response, Route, Routes
from worker.observability.metrics import Metrics
from worker.page.access import Access
from worker.page.feed import Decisions, Feed, TooMany
from worker.page.incident_detail import IncidentDetail
from worker.publishing import labels
from worker.serving.model_swap import ResidentModels
from worker.settings import Settings

log = structlog.get_logger()

_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_FILES: Final = {  # path -> file, content type
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "/page/words.js": ("words.js", "text/javascript; charset=utf-8"),
    "/page/uPlot.js": ("uPlot.iife.min.js", "text/javascript; charset=utf-8"),
    "/page/uPlot.css": ("uPlot.min.css", "text/css; charset=utf-8"),
    "/page/uPlot.LICENSE": ("uPlot.LICENSE", "text/plain; charset=utf-8"),
}
_OPEN: Final = ("/page/page.css",)  # the login form needs it
NAME_MOST: Final = 80  # maximum characters of the name that a labelling viewer gives
_WRITE_PATIENCE: Final = 4.0  # seconds
_JSON: Final = "application/json"


class Page:
    """The live page. Its `routes` answer until `close`."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        models: ResidentModels,
        health: Callable[[], Health],
        decisions: Callable[[], Decisions],
    ):
        self._settings, self._topics = settings, TopicSet.of(settings.topics.sensors)
        self._access = Access(settings.http)
        self._feed = Feed(settings, metrics, models, health, decisions)
        self._stretch, self._looks_back = IncidentDetail(settings, models), threading.Lock()
        self._labels = threading.Lock()
        self._login = _file("login.html")
        guarded: dict[tuple[str, str], Route] = {
            ("GET", "/page/stream"): self._streamed,
            ("GET", "/page/incident"): self._incident,
        }
        if settings.http.takes_labels:
            guarded["POST", "/page/label"] = self._label
        for path, (name, kind) in _FILES.items():
            guarded["GET", path] = _static(_file(name), kind)
        handlers = {place: self._guarded(route, place[1]) for place, route in guarded.items()}
        if settings.http.token is not None:
            handlers["POST", "/page/login"] = self._for_here(self._enter)
        self.routes: Routes = handlers

    def start(self) -> None:
        """Start what the page follows."""
        self._feed.start()

    def close(self) -> None:
        """Stop what the page follows."""
        self._feed.close()

    # -- who may

    def _guarded(self, route: Route, path: str) -> Route:
        def answer(request: Request) -> Response:
            if path in _OPEN or self._access.is_known(request):
                return route(request)
            if path == "/":
                return _answer(200, "text/html; charset=utf-8", self._login)
            return _json(401, {"error": "token"})

        return self._for_here(answer)

    def _for_here(self, route: Route) -> Route:
        def answer(request: Request) -> Response:
            if not self._access.is_for_here(request):
                return _json(403, {"error": "host"})
            return route(request)

        return answer

    def _enter(self, request: Request) -> Response:
        if not self._access.may_enter(request):
            return _answer(429, "text/html; charset=utf-8", self._login, {"Retry-After": "1"})
        cookie = self._access.enter(request)
        if cookie is None:
            log.warning("page_token_refused")
            return _answer(403, "text/html; charset=utf-8", self._login.replace(b" hidden", b""))
        return _answer(303, "text/plain", b"", {"Location": "/", "Set-Cookie": cookie})

    # -- what there is

    def _streamed(self, _: Request) -> Response:
        try:
            stream = self._feed.stream()
        except TooMany:
            return _json(503, {"error": "viewers"})
        headers = _NEVER_KEPT | {"X-Accel-Buffering": "no"}  # a proxy is not to hold it back
        return Response(200, "text/event-stream", b"retry: 2000\n\n", headers, stream)

    def _incident(self, request: Request) -> Response:
        try:
            id = parse_qs(request.query, max_num_fields=5).get("id", [""])[0]
        except ValueError:
            id = ""
        place = VectorId.parse(id, self._topics)
        if place is None:
            return _json(400, {"error": "id"})
        if not self._looks_back.acquire(blocking=False):
            return _json(202, {"busy": True})  # the client retries, so that no thread waits here; this is no error
        try:
            return _json(200, self._stretch.around(place, self._feed.incident(id)))
        except LookupError:
            return _json(503, {"error": "model"})
        except OffnormalError as error:
            log.warning("page_incident_failed", error=str(error))
            return _json(503, {"error": "kafka"})
        except Exception:
            log.exception("page_incident_failed")
            return _json(500, {"error": "failed"})
        finally:
            self._looks_back.release()

    def _label(self, request: Request) -> Response:
        if not self._access.is_from_here(request):
            return _json(403, {"error": "origin"})
        if request.headers.get_content_type() != _JSON:
            return _json(415, {"error": "type"})
        request_label = _parsed(request.body)
        if request_label is None or VectorId.parse(request_label["id"], self._topics) is None:
            return _json(400, {"error": "label"})
        author = "".join(c for c in request_label["who"] if c.isprintable()).strip()[:NAME_MOST] or "page"
        if not self._labels.acquire(blocking=False):
            return _json(503, {"error": "busy"})
        try:
            label = labels.write(
                self._settings,
                request_label["id"],
                request_label["verdict"],
                author,
                note="on the page",
                timeout=_WRITE_PATIENCE,
            )
        except OffnormalError as error:
            log.warning("page_label_failed", error=str(error))
            return _json(503, {"error": "kafka"})
        finally:
            self._labels.release()
        self._feed.label(orjson.dumps(label))
        log.info("page_label_written", id=label["id"], verdict=label["verdict"], who=author)
        return _json(200, {"verdict": label["verdict"]})


def _parsed(body: bytes) -> dict[str, Any] | None:
    """Return the content of a label; None where it is none."""
    try:
        document = orjson.loads(body)
        id, verdict, author = document["id"], document["verdict"], document.get("who") or ""
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None
    is_valid = isinstance(id, str) and isinstance(author, str) and verdict in ("confirmed", "dismissed")
    return {"id": id, "verdict": verdict, "who": author} if is_valid else None


def _file(name: str) -> bytes:
    return files("worker.page").joinpath("static", name).read_bytes()


def _static(body: bytes, kind: str) -> Route:
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}  # revalidated each time, sent again only if changed

    def answer(request: Request) -> Response:
        if request.headers.get("If-None-Match") == tag:
            return Response(304, kind, b"", _HEADERS | headers)
        return Response(200, kind, body, _HEADERS | headers)

    return answer


_NEVER_KEPT: Final = _HEADERS | {"Cache-Control": "no-store"}


def _answer(status: int, kind: str, body: bytes, more: Mapping[str, str] | None = None) -> Response:
    return Response(status, kind, body, _NEVER_KEPT | dict(more or {}))


def _json(status: int, document: Mapping[str, Any]) -> Response:
    """Return a JSON response; NaN and infinity become null."""
    return _answer(status, _JSON, orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY))

"""Who may look at the page, and who may label.

They need a token, as a header or as a cookie that a form sets. Requests that another site has made a browser send are
refused.
"""

import hashlib
import hmac
import threading
import time
from collections import OrderedDict
from email.message import Message
from ipaddress import ip_address
from typing import Final
from urllib.parse import parse_qs, urlsplit

from worker.observability.http_server import Request
from worker.settings import HttpSettings

COOKIE: Final = "offnormal_page"
_MOST_COOKIES: Final = 8192  # characters of the header that are looked at
GUESSES: Final = 20  # wrong tokens that a client may send in a burst
EVERY: Final = 1.0  # seconds until it may send one more
_MOST_CLIENTS: Final = 1024


class Access:
    """Who may look at the page, by token, cookie and host name."""

    def __init__(self, settings: HttpSettings):
        self._token = None if settings.token is None else settings.token.get_secret_value().strip().encode()
        self._is_local, self._hosts = settings.is_local, frozenset(settings.hosts)
        self._guesses = _Guesses()

    def is_known(self, request: Request) -> bool:
        """Return whether the request bears the token, or its cookie; True if there is no token."""
        if self._token is None:
            return True
        kind, _, credentials = (_the(request.headers, "Authorization") or "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(_bytes(credentials.strip()), request.client):
            return True
        cookies = (_the(request.headers, "Cookie") or "")[:_MOST_COOKIES].split(";")
        tokens = (value for name, _, value in (cookie.strip().partition("=") for cookie in cookies) if name == COOKIE)
        return any(hmac.compare_digest(_bytes(value), self._pass()) for value in tokens)

    def is_for_here(self, request: Request) -> bool:
        """Return whether the request's Host is a name that no other site can own, or one that the settings name.

        Otherwise another site could point its own name to this server, and so make a browser read the page (DNS
        rebinding). A token prevents that, as its cookie belongs to another name. If only this machine can reach the
        page, only its own names are accepted. No browser leaves the Host out.
        """
        host = _the(request.headers, "Host")
        if not self._is_local and (self._token is not None or host is None):
            return True
        name = (_name(host) or "").rstrip(".")
        if name == "localhost" or name in self._hosts:
            return True
        try:
            return ip_address(name).is_loopback or not self._is_local
        except ValueError:
            return bool(name) and "." not in name and not self._is_local

    def may_enter(self, request: Request) -> bool:
        """Return whether the client may try a token: not right after many wrong ones."""
        return self._guesses.are_left(request.client)

    @staticmethod
    def is_from_here(request: Request) -> bool:
        """Return whether a browser sent the request from this very page."""
        host, origin = _the(request.headers, "Host"), _the(request.headers, "Origin")
        return bool(host) and origin is not None and origin.lower() in (f"{s}://{host}".lower() for s in _SCHEMES)

    def enter(self, request: Request) -> str | None:
        """Return the cookie for a viewer who has filled in the form; None if the token is wrong, or there is none."""
        try:
            (token,) = parse_qs(request.body.decode(), max_num_fields=5).get("token", [""])
        except ValueError:
            return None
        if not self._is_token(token.strip().encode("utf-8", "replace"), request.client):
            return None
        # A reverse proxy says by this header that the browser uses TLS.
        secure = "; Secure" if (_the(request.headers, "X-Forwarded-Proto") or "").lower() == "https" else ""
        return f"{COOKIE}={self._pass().decode()}; Path=/; HttpOnly; SameSite=Strict{secure}"

    def _is_token(self, token: bytes, client: str) -> bool:
        if self._token is None or not self._guesses.are_left(client):
            return False
        is_right = hmac.compare_digest(token, self._token)
        if not is_right:
            self._guesses.wrong(client)
        return is_right

    def _pass(self) -> bytes:
        """Return a cookie that proves its bearer knew the token, without containing it.

        Another token makes another one.
        """
        assert self._token is not None
        return hmac.new(self._token, b"offnormal page", hashlib.sha256).hexdigest().encode()


class _Guesses:
    """Counts the wrong tokens that each client may still send. Beyond a bound the earliest client is forgotten."""

    def __init__(self) -> None:
        self._ends: OrderedDict[str, float] = OrderedDict()  # until when what it has guessed counts
        self._lock = threading.Lock()

    def are_left(self, client: str) -> bool:
        with self._lock:
            return self._ends.get(client, 0.0) - time.monotonic() <= (GUESSES - 1) * EVERY

    def wrong(self, client: str) -> None:
        with self._lock:
            self._ends[client] = max(self._ends.get(client, 0.0), time.monotonic()) + EVERY
            self._ends.move_to_end(client)
            if len(self._ends) > _MOST_CLIENTS:
                self._ends.popitem(last=False)


_SCHEMES: Final = ("http", "https")  # the latter: by a proxy in front


def _bytes(header: str) -> bytes:
    """Return a header's bytes as they were sent."""
    return header.encode("latin-1", "replace")


def _the(headers: Message, name: str) -> str | None:
    """Return the header, if it is there exactly once."""
    values = headers.get_all(name, [])
    return str(values[0]) if len(values) == 1 else None


def _name(host: str | None) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname if host else None
    except ValueError:
        return None

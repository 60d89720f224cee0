"""Who may look at the page, and who may label: a token, as a header or as a cookie that a form sets; and no request
that another site has made a browser send.
"""

import hashlib
import hmac
from email.message import Message
from ipaddress import ip_address
from typing import Final
from urllib.parse import parse_qs, urlsplit

from worker.http import Request
from worker.settings import HttpSettings

COOKIE: Final = "offnormal_page"
_MOST_COOKIES: Final = 8192  # characters of the header that are looked at


class Access:
    def __init__(self, settings: HttpSettings):
        self._token = None if settings.token is None else settings.token.get_secret_value().strip().encode()
        self._is_local = settings.is_local

    def is_known(self, request: Request) -> bool:
        """Whether it bears the token, or the cookie in place of it; anybody is where there is no token."""
        if self._token is None:
            return True
        kind, _, told = (_the(request.headers, "Authorization") or "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(_bytes(told.strip()), self._token):
            return True
        cookies = (_the(request.headers, "Cookie") or "")[:_MOST_COOKIES].split(";")
        given = (value for name, _, value in (each.strip().partition("=") for each in cookies) if name == COOKIE)
        return any(hmac.compare_digest(_bytes(value), self._pass()) for value in given)

    def is_for_here(self, request: Request) -> bool:
        """A name that leads to this machine's own loopback address is how another site gets a browser to look: so where
        only this machine can look, it has to call itself so.
        """
        if not self._is_local:
            return True
        name = _name(_the(request.headers, "Host"))
        try:
            return name == "localhost" or ip_address(name or "").is_loopback
        except ValueError:
            return False

    @staticmethod
    def is_from_here(request: Request) -> bool:
        """Whether a browser sent it from this very page."""
        host, origin = _the(request.headers, "Host"), _the(request.headers, "Origin")
        return bool(host) and origin is not None and origin.lower() in (f"{s}://{host}".lower() for s in _SCHEMES)

    def enter(self, request: Request) -> str | None:
        """The cookie for who has filled in the form; None where the token is another one, or there is none."""
        try:
            (told,) = parse_qs(request.body.decode(), max_num_fields=5).get("token", [""])
        except ValueError:
            return None
        if self._token is None or not hmac.compare_digest(told.strip().encode("utf-8", "replace"), self._token):
            return None
        return f"{COOKIE}={self._pass().decode()}; Path=/; HttpOnly; SameSite=Strict"

    def _pass(self) -> bytes:
        """Says that its bearer has known the token, and does not tell it. Another token makes another one."""
        assert self._token is not None
        return hmac.new(self._token, b"offnormal page", hashlib.sha256).hexdigest().encode()


_SCHEMES: Final = ("http", "https")  # the latter: by a proxy in front


def _bytes(header: str) -> bytes:
    """As they were sent."""
    return header.encode("latin-1", "replace")


def _the(headers: Message, name: str) -> str | None:
    """The header, if it is there once."""
    found = headers.get_all(name, [])
    return str(found[0]) if len(found) == 1 else None


def _name(host: str | None) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname if host else None
    except ValueError:
        return None

"""Access tokens for OAUTHBEARER: from an identity provider by client credentials (RFC 6749, 4.4), or from a file.

kafka-python asks for a token whenever it connects, and whenever the broker wants it to authenticate again (KIP-368).
It asks in the thread that serves all of a client's connections. So a token is renewed in another thread, before it
expires.
"""

import base64
import http.client
import json
import math
import ssl
import threading
import time
import urllib.parse
import urllib.request
from typing import Any, Final, NamedTuple

import structlog
from kafka import errors
from kafka.net.sasl.oauth import AbstractTokenProvider

from worker.http_client import fetch
from worker.settings import KafkaSettings

log = structlog.get_logger()

TIMEOUT: Final = 5.0  # seconds that a request for a token may take
RENEW: Final = 0.8  # share of a token's life after which it is renewed
AGAIN: Final = 1.0  # seconds between two tries to renew it
_LIFE: Final = 300.0  # seconds, where the provider does not say
_LARGEST: Final = 2**18  # bytes of an answer, or of a file


class NoToken(errors.KafkaConnectionError):  # type: ignore[misc]
    """There is no token, so there is no connection: kafka-python tries again, as after a broker that is away."""


class TokenFile(AbstractTokenProvider):  # type: ignore[misc]
    """Reads the token from a file each time: whoever wrote it renews it, as Kubernetes does with projected tokens."""

    def __init__(self, settings: KafkaSettings):
        self._file, self._extensions = settings.oauth_token_file or "", settings.oauth_extensions

    def token(self) -> str:
        """Return the token. Raises NoToken."""
        try:
            with open(self._file, encoding="ascii") as file:
                token = file.read(_LARGEST).strip()
        except (OSError, ValueError) as error:
            raise NoToken(f"OFFNORMAL_KAFKA__OAUTH_TOKEN_FILE: {error}") from None
        if not _is_token(token):
            raise NoToken(f"OFFNORMAL_KAFKA__OAUTH_TOKEN_FILE: {self._file} holds no token")
        over = time.time() - _end(token)
        if over > 0:  # a broker may take it, and hang up at once without a word
            raise NoToken(f"OFFNORMAL_KAFKA__OAUTH_TOKEN_FILE: the token in {self._file} expired {over:.0f} s ago")
        return token

    def extensions(self) -> dict[str, str]:
        """Return the SASL extensions."""
        return self._extensions


class _Token(NamedTuple):
    """A token; its times are those of the monotonic clock."""

    text: str
    renew_at: float
    expires_at: float


class ClientCredentials(AbstractTokenProvider):  # type: ignore[misc]
    """Gets tokens from an identity provider, and keeps each until the next one is there."""

    def __init__(self, settings: KafkaSettings):
        self._settings = settings
        self._lock = threading.Lock()
        self._token = _Token("", -math.inf, -math.inf)
        self._asked_at, self._error = -math.inf, NoToken()
        self._renewal: threading.Thread | None = None

    def token(self) -> str:
        """Return a token that has not expired. Raises NoToken.

        Asks for it only where there is none; a token that is to be renewed is returned, and renewed by a thread. The
        provider is asked at most once in AGAIN seconds.
        """
        with self._lock:
            now = time.monotonic()
            if now < self._token.expires_at:
                if now >= self._token.renew_at and now - self._asked_at >= AGAIN and not self._is_renewing():
                    self._asked_at = now
                    self._renewal = threading.Thread(target=self._renew, name="oauth", daemon=True)
                    self._renewal.start()
            elif now - self._asked_at < AGAIN:
                raise self._error
            else:
                self._asked_at = now
                try:
                    self._token = _ask(self._settings)
                except NoToken as error:
                    self._asked_at, self._error = time.monotonic(), error
                    raise
            return self._token.text

    def extensions(self) -> dict[str, str]:
        """Return the SASL extensions."""
        return self._settings.oauth_extensions

    def _is_renewing(self) -> bool:
        return self._renewal is not None and self._renewal.is_alive()

    def _renew(self) -> None:
        try:
            token = _ask(self._settings)
        except NoToken as error:
            left = round(self._token.expires_at - time.monotonic())
            log.warning("oauth_token_not_renewed", error=str(error), left=left)
        else:
            with self._lock:
                if token.expires_at > self._token.expires_at:
                    self._token = token


_providers: dict[tuple[str | None, ...], AbstractTokenProvider] = {}
_providers_lock = threading.Lock()


def token_provider(settings: KafkaSettings) -> AbstractTokenProvider:
    """Return the provider of these settings, one for all clients of the process."""
    secret = settings.password.get_secret_value() if settings.password else None
    extensions = json.dumps(settings.oauth_extensions)
    key = (settings.oauth_token_url, settings.username, secret, settings.oauth_scope, settings.oauth_token_file)
    with _providers_lock:
        kind = TokenFile if settings.oauth_token_file else ClientCredentials
        return _providers.setdefault((*key, settings.oauth_ca_file, extensions), kind(settings))


def _ask(settings: KafkaSettings) -> _Token:
    """Return a new token. Raises NoToken."""
    assert settings.oauth_token_url is not None
    assert settings.password is not None
    form = {"grant_type": "client_credentials"} | ({"scope": settings.oauth_scope} if settings.oauth_scope else {})
    # RFC 6749, 2.3.1: both parts are encoded as in a form, before they are joined.
    parts = (settings.username or "", settings.password.get_secret_value())
    login = ":".join(urllib.parse.quote_plus(part) for part in parts)
    request = urllib.request.Request(settings.oauth_token_url, urllib.parse.urlencode(form).encode(), method="POST")
    request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    request.add_header("Content-Type", "application/x-www-form-urlencoded")
    request.add_header("Accept", "application/json")
    where = f"the identity provider at {settings.oauth_token_url}"
    asked = time.monotonic()
    try:
        status, body = fetch(request, TIMEOUT, _tls(settings), _LARGEST)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())[:200] or type(error).__name__
        raise NoToken(f"{where} does not answer: {reason}; check OFFNORMAL_KAFKA__OAUTH_TOKEN_URL") from None
    answer = _object(body)
    if status >= 500 or status in (408, 429):
        raise NoToken(f"{where} is not ready: it answers {status}")
    if status != 200:
        detail = " ".join(str(answer.get("error", "")).split())[:100]
        raise NoToken(
            f"{where} refuses a token: {status} {detail}; check OFFNORMAL_KAFKA__USERNAME, __PASSWORD and __OAUTH_SCOPE"
        )
    token, life = answer.get("access_token"), _seconds(answer.get("expires_in"))
    if not isinstance(token, str) or not _is_token(token) or life is None:
        raise NoToken(f"{where} answers without a token; check OFFNORMAL_KAFKA__OAUTH_TOKEN_URL")
    return _Token(token, asked + RENEW * life, asked + life)


def _tls(settings: KafkaSettings) -> ssl.SSLContext | None:
    """Return what the provider's certificate is checked by; None without TLS. Raises NoToken."""
    if not (settings.oauth_token_url or "").startswith("https:"):
        return None
    try:
        return ssl.create_default_context(cafile=settings.oauth_ca_file)
    except OSError as error:
        raise NoToken(f"OFFNORMAL_KAFKA__OAUTH_CA_FILE: {settings.oauth_ca_file}: {error}") from None


def _object(body: bytes) -> dict[str, Any]:
    """Return the object that an answer is, an empty one for anything else."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _seconds(told: object) -> float | None:
    """Return the life of a token, which some providers write as text or leave out; None if it is none."""
    if told is None:
        return _LIFE
    try:
        life = float(told) if isinstance(told, int | float | str) and not isinstance(told, bool) else math.nan
    except (ValueError, OverflowError):
        return None
    return life if 0 < life < 1e9 else None


def _end(token: str) -> float:
    """Return when a token expires, in s since the epoch; infinity if it does not say, or is no JWT (RFC 7519)."""
    try:
        claims = token.split(".")[1]
        end = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"]
        return float(end) if type(end) in (int, float) else math.inf
    except (IndexError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return math.inf


def _is_token(text: str) -> bool:
    """Return whether this can be a token (RFC 6750, 2.1): it is put between control characters on the way."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text

"""Tokens, whatever an identity provider answers. tests/faults/test_logins.py has a broker that checks them."""

import json
import threading
import time
from typing import Any

import pytest
from pydantic import SecretStr

from worker.kafka import connection, oauth
from worker.kafka.oauth import ClientCredentials, NoToken, TokenFile
from worker.settings import KafkaSettings

TOKEN = {"access_token": "abc", "expires_in": 300}


def settings(**more: Any) -> KafkaSettings:
    login = {"oauth_token_url": "http://127.0.0.1:9/token", "username": "worker", "password": SecretStr("secret")}
    return KafkaSettings(security_protocol="SASL_PLAINTEXT", sasl_mechanism="OAUTHBEARER", **{**login, **more})


class Provider:
    """Answers by what it is told, and counts who asks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.status, self.asked, self.seconds = 200, 0, 0.0
        self.answer: Any = TOKEN
        monkeypatch.setattr(oauth, "fetch", self._fetch)

    def _fetch(self, *_: object) -> tuple[int, bytes]:
        self.asked += 1
        time.sleep(self.seconds)
        return self.status, self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode()


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Provider:
    return Provider(monkeypatch)


@pytest.mark.parametrize("life", [300, 299.5, "3599", None])
def test_a_token_is_kept_for_its_life(provider: Provider, life: object) -> None:
    provider.answer = {"access_token": "abc", "expires_in": life}
    tokens = ClientCredentials(settings())
    assert [tokens.token() for _ in range(3)] == ["abc"] * 3 and provider.asked == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"[]", b"7", b"<html>", b"[" * 100_000, {}, {"access_token": 7}, {"access_token": ""},
        {"access_token": "a b"}, {"access_token": "a\x01b"}, {"access_token": "a", "expires_in": "soon"},
        {"access_token": "a", "expires_in": -1}, {"access_token": "a", "expires_in": True},
        {"access_token": "a", "expires_in": 10**400},
    ],
)  # fmt: skip
def test_an_answer_without_a_token_is_told(provider: Provider, answer: Any) -> None:
    provider.answer = answer
    with pytest.raises(NoToken, match="without a token"):
        ClientCredentials(settings()).token()


@pytest.mark.parametrize(
    ("status", "told", "is_for_good"),
    [(401, "refuses a token: 401", True), (400, "refuses", True), (429, "not ready", False), (503, "not ready", False)],
)
@pytest.mark.parametrize("answer", [{"error": "x"}, b"<html>"])
def test_a_refusal_is_for_good_and_a_pause_is_not(
    provider: Provider, status: int, told: str, is_for_good: bool, answer: Any
) -> None:
    provider.status, provider.answer = status, answer
    with pytest.raises(NoToken, match=told) as error:
        ClientCredentials(settings()).token()
    assert any(word in str(error.value) for word in connection._FOR_GOOD) is is_for_good


def test_the_file_that_is_missing_is_named() -> None:
    with pytest.raises(NoToken, match="OAUTH_CA_FILE: /nowhere"):
        ClientCredentials(settings(oauth_token_url="https://127.0.0.1:9/token", oauth_ca_file="/nowhere")).token()


def test_many_clients_ask_a_provider_that_is_away_once_a_second(provider: Provider) -> None:
    provider.status, provider.seconds = 503, 0.3
    tokens = ClientCredentials(settings())
    errors: list[NoToken] = []

    def ask() -> None:
        try:
            tokens.token()
        except NoToken as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 8 and provider.asked == 1


def test_a_token_is_renewed_beside_and_kept_where_that_fails(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(oauth.time, "monotonic", lambda: now[0])  # type: ignore[attr-defined]
    tokens = ClientCredentials(settings())

    def after_renewal() -> str:
        token = tokens.token()
        if tokens._renewal is not None:
            tokens._renewal.join()
        return token

    assert after_renewal() == "abc"
    now[0] += 250
    provider.status = 503
    assert after_renewal() == "abc" and provider.asked == 2
    now[0] += oauth.AGAIN
    provider.status, provider.answer = 200, {"access_token": "new", "expires_in": 300}
    assert after_renewal() == "abc" and after_renewal() == "new" and provider.asked == 3
    now[0] += 301
    provider.status = 503
    with pytest.raises(NoToken):
        tokens.token()


@pytest.mark.parametrize(
    "claims", ["e30", "bnVsbA", "W10", "eyJleHAiOiAieCJ9", "!!", "", "eyJleHAiOiAx" + "MDAw" * 150 + "fQ"]
)
def test_a_file_with_any_token_is_read(tmp_path: Any, claims: str) -> None:
    file = tmp_path / "token"
    file.write_text(f"a.{claims}.c")
    reader = TokenFile(settings(oauth_token_url=None, oauth_token_file=str(file)))
    assert reader.token() == f"a.{claims}.c"


def test_a_file_without_a_token_is_told(tmp_path: Any) -> None:
    file = tmp_path / "token"
    reader = TokenFile(settings(oauth_token_url=None, oauth_token_file=str(file)))
    for text in (None, b"", b"two words", "\u00e4".encode()):
        if text is not None:
            file.write_bytes(text)
        with pytest.raises(NoToken, match="OAUTH_TOKEN_FILE"):
            reader.token()

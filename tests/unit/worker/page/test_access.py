"""Who may look at the page, and who may label."""

from dataclasses import replace
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.unit.worker.settings.test_settings import load_with
from worker.errors import SettingsError
from worker.observability.http_server import Request
from worker.page.access import EVERY, GUESSES, Access
from worker.settings import HttpSettings, Settings

TOKEN = "sixteen characters, and more: é"


def request(body: bytes = b"", **headers: str) -> Request:
    message = Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return Request("", message, body)


def access(**settings: Any) -> Access:
    return Access(HttpSettings(token=SecretStr(TOKEN), **settings))


def test_without_a_token_anybody_may_look() -> None:
    assert Access(HttpSettings()).is_known(request())


def test_the_token_itself_and_the_cookie_that_the_form_sets() -> None:
    given = access().enter(request(b"token=sixteen+characters%2C+and+more%3A+%C3%A9"))
    assert given is not None
    value = given.split(";")[0]
    assert given.endswith("; Path=/; HttpOnly; SameSite=Strict") and TOKEN not in given
    assert access().is_known(request(Cookie=f"a=b; {value}; c=d"))
    assert not access().is_known(request(Cookie=f"{value}x"))
    assert not Access(HttpSettings(token=SecretStr("another token, as long"))).is_known(request(Cookie=value))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": "Bearer \udce9"},
        {"Cookie": f"offnormal_page={TOKEN}"},
        {"Cookie": "offnormal_page"},
        {"Cookie": ";" * 100_000},
    ],
)
def test_nothing_else_is_known(headers: dict[str, Any]) -> None:
    assert not access().is_known(request(**headers))


def test_a_bearer_is_known() -> None:
    told = TOKEN.encode().decode("latin-1")  # as a header's bytes are read
    assert access().is_known(request(Authorization=f"bearer {told}"))


@pytest.mark.parametrize("body", [b"", b"token=", b"token=x", b"\xff", b"&" * 4000, b"token=a&token=b", TOKEN.encode()])
def test_the_form_takes_the_token_alone(body: bytes) -> None:
    assert access().enter(request(body)) is None


@pytest.mark.parametrize(
    ("host", "told", "taken"),
    [
        ("127.0.0.1", "127.0.0.1:8080", True),
        ("127.0.0.1", "LOCALHOST:1", True),
        ("localhost", "[::1]:8080", True),
        ("127.0.0.1", "evil.example:8080", False),  # a name that its owner has let lead here
        ("127.0.0.1", "localhost.evil.example", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "[", False),
        ("0.0.0.0", "plant.example", False),  # likewise
        ("0.0.0.0", "plant.example.:8080", False),
        ("0.0.0.0", "0x7f.1.example", False),
        ("0.0.0.0", "[", False),
        ("0.0.0.0", "", False),
        ("0.0.0.0", "10.0.0.7:8080", True),
        ("0.0.0.0", "[fd00::7]:8080", True),
        ("0.0.0.0", "Worker-0:8080", True),  # nobody can own it elsewhere
        ("0.0.0.0", "localhost", True),
    ],
)
def test_a_page_for_this_machine_is_asked_for_by_this_machines_names(host: str, told: str, taken: bool) -> None:
    assert Access(HttpSettings(host=host)).is_for_here(request(Host=told)) == taken
    assert Access(HttpSettings(host=host)).is_for_here(request()) == (host == "0.0.0.0")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_names_that_the_settings_name_are_taken(host: str) -> None:
    named = Access(HttpSettings(host=host, hosts=("Plant.example", "other.example.")))
    assert named.is_for_here(request(Host="plant.EXAMPLE:80")) and named.is_for_here(request(Host="other.example"))
    assert not named.is_for_here(request(Host="a.plant.example"))


def test_with_a_token_any_name_will_do() -> None:
    """The cookie belongs to the name that it was set by."""
    assert access().is_for_here(request(Host="plant.example"))


@pytest.mark.parametrize("hosts", ['["http://a.b"]', '["a.b:80"]', '[""]', '["a b"]'])
def test_a_host_that_is_no_name_is_refused(hosts: str) -> None:
    with pytest.raises(SettingsError, match="OFFNORMAL_HTTP__HOSTS"):
        load_with(OFFNORMAL_HTTP__HOSTS=hosts)


def test_behind_a_proxy_that_speaks_tls_the_cookie_is_for_tls_alone() -> None:
    body = b"token=sixteen+characters%2C+and+more%3A+%C3%A9"
    for told, secure in (("https", True), ("HTTPS", True), ("http", False), ("", False)):
        given = access().enter(request(body, X_Forwarded_Proto=told))
        assert given is not None and given.endswith("; Secure") == secure


def test_who_guesses_is_not_looked_at_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("worker.page.access.time.monotonic", lambda: now[0])
    guarded, right = access(), b"token=sixteen+characters%2C+and+more%3A+%C3%A9"
    bearer = f"Bearer {TOKEN}".encode().decode("latin-1")

    def asks(client: str, body: bytes = right, **headers: str) -> Request:
        return replace(request(body, **headers), client=client)

    for k in range(GUESSES):
        assert guarded.may_enter(asks("guesser"))
        if k % 2:
            assert guarded.enter(asks("guesser", b"token=x")) is None
        else:
            assert not guarded.is_known(asks("guesser", Authorization="Bearer x"))
    assert not guarded.may_enter(asks("guesser"))
    assert guarded.enter(asks("guesser")) is None and not guarded.is_known(asks("guesser", Authorization=bearer))
    cookie = guarded.enter(asks("another"))
    assert cookie is not None, "nobody else is kept out"
    assert guarded.is_known(asks("guesser", Cookie=cookie.split(";")[0])), "nor who is in already"
    now[0] += EVERY
    assert guarded.enter(asks("guesser")) is not None
    for k in range(5000):
        guarded.enter(asks(f"10.0.{k >> 8}.{k & 255}", b"token=x"))
    assert len(guarded._guesses._ends) < 2000


@pytest.mark.parametrize(
    ("origin", "taken"),
    [
        ("http://plant.example:8080", True),
        ("https://PLANT.example:8080", True),
        ("http://plant.example", False),
        ("http://evil.example:8080", False),
        ("null", False),
        ("", False),
    ],
)
def test_another_sites_page_may_not_label(origin: str, taken: bool) -> None:
    assert Access.is_from_here(request(Host="plant.example:8080", Origin=origin)) == taken


def test_where_a_header_is_missing_or_there_twice_nobody_may_label() -> None:
    assert not Access.is_from_here(request(Host="a"))
    assert not Access.is_from_here(request(Origin="http://"))
    twice = request(Host="a", Origin="http://b")
    twice.headers["Origin"] = "http://a"
    assert not Access.is_from_here(twice)


def test_labels_that_anybody_could_set_are_refused() -> None:
    with pytest.raises(SettingsError, match="OFFNORMAL_HTTP.*labels without a token") as caught:
        load_with(OFFNORMAL_HTTP__LABELS="true")
    assert "\n" not in str(caught.value)
    assert load_with(OFFNORMAL_HTTP__LABELS="true", OFFNORMAL_HTTP__HOST="127.0.0.1").http.takes_labels
    held = load_with(OFFNORMAL_HTTP__LABELS="true", OFFNORMAL_HTTP__TOKEN=TOKEN)
    assert held.topics.labels in held.written and TOKEN not in repr(held)
    assert Settings().topics.labels not in Settings().written
    assert not load_with(OFFNORMAL_HTTP__LABELS="true", OFFNORMAL_HTTP__TOKEN=TOKEN, OFFNORMAL_HTTP__PORT="0").written[
        6:
    ]


def test_a_token_that_is_too_short_is_refused_and_not_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        load_with(OFFNORMAL_HTTP__TOKEN="hunter2")
    assert "OFFNORMAL_HTTP__TOKEN" in str(caught.value) and "hunter2" not in str(caught.value)


@pytest.mark.parametrize("blanks", [" " * 16, "\t" * 20, " \n" * 30, " " * 20 + "short" + " " * 20])
@pytest.mark.parametrize("name", ["OFFNORMAL_HTTP__TOKEN", "OFFNORMAL_MODEL__SIGNING_KEY"])
def test_blanks_are_no_token_and_no_key(name: str, blanks: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(blanks)
    for given in ({name: blanks}, {f"{name}_FILE": str(tmp_path / "secret")}):
        with pytest.raises(SettingsError, match=name):
            load_with(**given)


def test_blanks_around_a_token_are_none_of_it() -> None:
    held = load_with(OFFNORMAL_HTTP__TOKEN=f"  {'t' * 16}\t", OFFNORMAL_MODEL__SIGNING_KEY=f" {'k' * 16} ")
    assert held.http.token is not None and held.http.token.get_secret_value() == "t" * 16
    assert held.model.signing_key is not None and held.model.signing_key.get_secret_value() == "k" * 16
    assert HttpSettings(token=SecretStr(f" {'t' * 16} ")).token == held.http.token

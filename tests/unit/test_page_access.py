"""Who may look at the page, and who may label."""

from email.message import Message
from typing import Any

import pytest

from tests.unit.test_settings import load_with
from worker.errors import SettingsError
from worker.http import Request
from worker.page.access import Access
from worker.settings import HttpSettings, SecretStr, Settings

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
def test_nothing_else_is_known(headers: dict[str, str]) -> None:
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
        ("0.0.0.0", "plant.example", True),
    ],
)
def test_a_page_for_this_machine_is_asked_for_by_this_machines_names(host: str, told: str, taken: bool) -> None:
    assert Access(HttpSettings(host=host)).is_for_here(request(Host=told)) == taken
    assert Access(HttpSettings(host=host)).is_for_here(request()) == (host == "0.0.0.0")


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

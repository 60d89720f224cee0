"""The data sent to the page: bounded, whatever comes; valid JSON; and no viewer delays another."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from worker.blocks import BytesColumn, RecordBlock, TopicSet
from worker.detection.incident import Incident
from worker.errors import KafkaUnavailable
from worker.models import Artefact
from worker.observability.http_server import Health
from worker.observability.metrics import Metrics
from worker.page import feed as feeds, incident_book
from worker.page.feed import Feed, TooMany
from worker.page.incident_book import MOST, IncidentBook
from worker.publishing.encoder import EventEncoder
from worker.serving.model_swap import ResidentModels
from worker.settings import Settings

SETTINGS = Settings()
TOPIC = SETTINGS.topics.sensors


def incident(i: int = 0, **more: Any) -> Incident:
    told: dict[str, Any] = {
        "topic": TOPIC,
        "partition": i % 4,
        "entity": f"press-{i}",
        "identity": i + 1,
        "first": (i, 0),
        "opened": (i, 0),
        "last": (i + 9, 0),
        "started": 1_700_000_000_000 + i,
        "latest": 1_700_000_009_000 + i,
        "vectors": 10,
        "peak": 1e-5,
        "severity": "alarm",
        "evidence": {"heat": 3.0, "flow": 1.0},
        "models": [("default", "v1")],
        "notify": True,
        "notified": 1_700_000_000_000,
        "closed": False,
    }
    return Incident(**(told | more))


def record(*incidents: Incident) -> list[bytes]:
    return [each or b"" for each in EventEncoder(SETTINGS).incidents(incidents).values]


def book(*incidents: Incident) -> IncidentBook:
    made = IncidentBook(SETTINGS.source, TopicSet.of(TOPIC))
    for value in record(*incidents):
        made.take(value)
    return made


def test_an_incident_as_it_is_shown() -> None:
    (shown,) = book(incident()).shown()
    assert (shown["id"], shown["entity"], shown["open"]) == (f"{TOPIC}/0/0/0", "press-0", True)
    assert shown["sensors"] == [{"name": "heat", "share": 0.75}, {"name": "flow", "share": 0.25}]


def test_what_was_published_last_counts_and_is_news_once() -> None:
    b = book(incident())
    b.news()
    (value,) = record(incident(vectors=11, closed=True))
    b.take(value)
    changed, gone = b.news()
    assert [(each["vectors"], each["open"]) for each in changed] == [(11, False)] and gone == []
    assert b.news() == ([], [])


def test_the_newest_are_held_and_open_ones_first() -> None:
    n = MOST + 400
    b = book(*(incident(i, closed=i != 3) for i in range(n)))
    assert MOST <= len(b) <= MOST + 100
    held = {each["entity"] for each in b.shown()}
    assert {"press-3", f"press-{n - 1}"} <= held and "press-0" not in held
    assert len(b.news()[1]) <= MOST


@pytest.mark.parametrize(
    "value",
    [None, b"", b"{}", b"[]", b"null", b"\xff", b'{"type":"offnormal.incident.v1"}', b"[" * 100_000]
    + [record(incident())[0].replace(b"urn:offnormal:offnormal", b"urn:offnormal:others")]
    + [
        record(incident(topic="others"))[0],
        record(incident(peak=0.5))[0].replace(b'"peak_p_value":0.5', b'"peak_p_value":-1'),
    ],
)
def test_nonsense_and_others_incidents_change_nothing(value: bytes | None) -> None:
    b = book()
    b.take(value)
    b.take_label(value)
    assert len(b) == 0


def test_long_names_are_cut() -> None:
    evidence = {"f" * 10_000 + str(i): 1.0 for i in range(200)}
    (shown,) = book(incident(entity="e" * 10_000, evidence=evidence, models=[("m", "v" * 10_000)] * 50)).shown()
    assert len(json.dumps(shown)) < 3000 and shown["entity"].endswith("…")


def test_what_people_say_is_shown_with_it() -> None:
    b = book(incident())
    b.news()
    b.take_label(json.dumps({"id": f"{TOPIC}/0/0/0", "verdict": "dismissed", "who": "Ada", "time": "t"}).encode())
    b.take_label(json.dumps({"id": "elsewhere/0/0/0", "verdict": "dismissed"}).encode())
    b.take_label(json.dumps({"id": f"{TOPIC}/0/0/0", "verdict": ["x"]}).encode())
    ((shown,), _) = b.news()
    assert shown["label"] == {"verdict": "dismissed", "who": "Ada", "time": "t"}
    for i in range(incident_book._MOST_LABELS + 10):
        b.take_label(json.dumps({"id": f"{TOPIC}/0/{i}/0", "verdict": "confirmed"}).encode())
    assert len(b._labels) == incident_book._MOST_LABELS


# -- streams


class FakeReader:
    """Gives what lies in `values`, some at a time."""

    values: list[bytes] = []
    fails = False

    def __init__(self, _: Any, topic: str, *__: Any, **___: Any):
        if self.fails:
            raise KafkaUnavailable("away")
        self._left = list(self.values) if topic == SETTINGS.topics.incidents else []

    def __enter__(self) -> "FakeReader":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def partitions(self) -> list[int]:
        return [0]

    def ends(self) -> dict[int, int]:
        return {0: len(self.values)}

    def seek(self, _: dict[int, int]) -> None:
        pass

    def caught_up(self) -> bool:
        return not self._left

    def poll(self, _: float) -> RecordBlock | None:
        part, self._left = self._left[:500], self._left[500:]
        if not part:
            time.sleep(0.01)
            return None
        n, at = len(part), np.arange(len(part))
        return RecordBlock(
            TopicSet.of(""), np.zeros(n, np.int64), at, at, BytesColumn.of([b""] * n), BytesColumn.of(part), {}
        )


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch, artefact: Artefact) -> Iterator[Callable[..., Feed]]:
    monkeypatch.setattr(feeds, "Reader", FakeReader)
    monkeypatch.setattr(feeds, "EVERY", 0.05)
    monkeypatch.setattr(feeds, "READ_EVERY", 0.02)
    monkeypatch.setattr(FakeReader, "values", [])
    monkeypatch.setattr(FakeReader, "fails", False)
    made: list[Feed] = []

    def make(values: list[bytes] | None = None, serves: bool = True, decisions: Any = None, **health: Any) -> Feed:
        FakeReader.values = values or []
        models = ResidentModels(SETTINGS)
        if serves:
            models.swap(models.load(artefact.dump()))
        detail = {"waits_for": None, "refused_models": {}} | health
        told = Health(True, serves, detail)
        made.append(Feed(SETTINGS, Metrics(), models, lambda: told, lambda: decisions or {}))
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        each.close()


def told(part: bytes) -> dict[str, Any]:
    def refused(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    assert part.startswith(b"data: ") and part.endswith(b"\n\n")
    (line,) = part.splitlines()[:1]
    found: dict[str, Any] = json.loads(line[6:], parse_constant=refused)
    return found


def test_all_first_then_what_changes(feed: Callable[..., Feed]) -> None:
    f = feed(record(*(incident(i) for i in range(3))), decisions={"default": [{"what": "promoted", "when": "x"}]})
    stream = f.stream()
    first = told(next(stream))
    assert first["about"]["labels"] is False and first["decisions"][0]["what"] == "promoted"
    assert first["now"]["models"][0]["budget"] == pytest.approx(1e-4)
    seen = {each["entity"] for each in first["incidents"]}
    for _ in range(20):
        update = told(next(stream))
        assert "about" not in update
        seen |= {each["entity"] for each in update["incidents"]}
    assert seen == {"press-0", "press-1", "press-2"} and update["incidents"] == [] and not update["reading"]
    assert "decisions" not in update and "swaps" not in update


def test_before_there_is_a_model(feed: Callable[..., Feed]) -> None:
    stream = feed(serves=False, waits_for="a champion").stream()
    now = told(next(stream))["now"]
    assert now["models"] == [] and now["waits_for"] == "a champion" and not now["ready"]


def test_hostile_decisions_are_told_as_text(feed: Callable[..., Feed]) -> None:
    hostile = {"what": {"a": float("nan")}, "when": 1e400, "version": "\ud800" * 3, "why": "x" * 10_000, "who": None}
    (decision,) = told(next(feed(decisions={"m": [hostile]}).stream()))["decisions"]
    assert decision["time"] is None and len(decision["why"]) == 200 and decision["version"] == "???"


def test_so_many_may_look_and_who_leaves_makes_room(feed: Callable[..., Feed]) -> None:
    f = feed()
    streams = [f.stream() for _ in range(feeds.VIEWERS)]
    with pytest.raises(TooMany):
        f.stream()
    streams[0].close()  # who has not even begun to read
    next(streams[1])
    streams[1].close()
    streams += [f.stream(), f.stream()]
    with pytest.raises(TooMany):
        f.stream()


def test_who_is_late_is_told_all_anew(feed: Callable[..., Feed]) -> None:
    stream = feed().stream()
    next(stream), next(stream)
    time.sleep(0.6)
    assert "about" in told(next(stream))
    assert "about" not in told(next(stream))


def test_streams_end_with_the_worker(feed: Callable[..., Feed]) -> None:
    f = feed()
    stream = f.stream()
    next(stream)
    ended = threading.Event()
    threading.Thread(target=lambda: (list(stream), ended.set()), daemon=True).start()
    time.sleep(0.2)
    f.close()
    assert ended.wait(1)


def test_nothing_is_read_where_nobody_looks(feed: Callable[..., Feed], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "LINGER", 0.1)
    f = feed()
    time.sleep(0.2)
    assert f._reader is None
    stream = f.stream()
    next(stream)
    assert f._reader is not None
    stream.close()
    time.sleep(0.5)
    assert f._reader is None and "page-reader" not in {t.name for t in threading.enumerate()}


def test_where_kafka_is_away_it_says_so(feed: Callable[..., Feed], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeReader, "fails", True)
    stream = feed().stream()
    assert any(told(next(stream))["problem"] for _ in range(10))


def test_a_flood_of_hostile_incidents_is_bounded(feed: Callable[..., Feed]) -> None:
    name = "<script>alert(1)</script>" * 40
    stream = feed(record(*(incident(i, entity=f"{name}{i}") for i in range(3000)))).stream()
    parts = [next(stream) for _ in range(40)]
    assert max(map(len, parts)) < 600 * 1200
    assert "</script>" in parts[-1].decode() or any(b"</script>" in part for part in parts)


def test_swaps_are_noticed(feed: Callable[..., Feed], artefact: Artefact) -> None:
    f = feed()
    time.sleep(0.15)
    other = replace(artefact, card=artefact.card.model_copy(update={"version": "v2"}))
    f._models.swap(f._models.load(other.dump()))
    stream = f.stream()
    assert any([s["version"] for s in told(next(stream)).get("swaps", ())] == ["v2"] for _ in range(10))

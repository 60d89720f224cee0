"""What the page shows: the worker's counters, each second, and the incidents of the fleet.

Incidents are read from Kafka in a thread of its own, while somebody looks at the page. The JSON is made once a second
for all viewers.
"""

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
import structlog

from worker.blocks import TopicSet
from worker.blocks.timestamps import milliseconds
from worker.detection.incident import Incident
from worker.errors import KafkaUnavailable
from worker.kafka.reader import Reader
from worker.observability.http_server import Health
from worker.observability.metrics import Metrics, total
from worker.page.incident_book import IncidentBook
from worker.page.texts import cut
from worker.serving.model_swap import ResidentModels
from worker.settings import Settings

log = structlog.get_logger()

VIEWERS: Final = 16  # at a time
EVERY: Final = 1.0  # seconds between looks at the counters, and between updates
KEPT: Final = 600  # looks: ten minutes
SMOOTH: Final = 5  # looks that a rate is taken over: commits come in steps
LINGER: Final = 10.0  # seconds for which incidents are read after the last viewer has left: a page may be reloaded
HEARTBEAT: Final = 5.0
READ_EVERY: Final = 0.5
RECORDS: Final = 500  # decoded at once: the loop waits behind them
BACKLOG: Final = 50_000  # records of the incidents topic that are read back at most
_BEHIND: Final = 3  # updates that a viewer may lag behind; beyond, it gets a full snapshot
_SWAPS: Final = 50
_DECISIONS: Final = 50

Decisions = Mapping[str, Sequence[Mapping[str, Any]]]  # model -> what was decided on it, oldest first


@dataclass(frozen=True, slots=True)
class CounterSample:
    """The counters at one time."""

    time: float
    vectors: float
    events: float
    dead: float
    lag: float
    rate: float


class TooMany(Exception):
    """The limit of viewers is reached."""


class Feed:
    """Follows counters and incidents in threads of its own, from `start` to `close`."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        models: ResidentModels,
        health: Callable[[], Health],
        decisions: Callable[[], Decisions],
    ):
        self._settings, self._metrics, self._models = settings, metrics, models
        self._health, self._decisions = health, decisions
        self._looks: deque[CounterSample] = deque(maxlen=KEPT)
        self._serving: dict[str, tuple[str, float]] = {}  # model -> version, and since when
        self._swaps: deque[dict[str, Any]] = deque(maxlen=_SWAPS)
        # All below under the lock of `_changed`.
        self._changed = threading.Condition()
        self._stopped = False
        self._viewers = 0
        self._wanted_until = 0.0
        self._reader: threading.Thread | None = None
        self._book = IncidentBook(settings.source, TopicSet.of(settings.topics.sensors))
        self._reading = True  # older incidents are still being read
        self._problem = False  # incidents cannot be read
        self._updates: deque[bytes] = deque(maxlen=_BEHIND)
        self._number = 0  # of the last update
        self._sent: dict[str, Any] = {}

    def start(self) -> None:
        """Start the thread that follows counters and incidents."""
        threading.Thread(target=self._run, name="page", daemon=True).start()

    def close(self) -> None:
        """Stop the threads. Streams end at once."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def incident(self, id: str) -> Incident | None:
        """Return the incident of this id, if it is among the newest."""
        with self._changed:
            return self._book.get(id)

    def label(self, value: bytes) -> None:
        """Show a label that a viewer has just given, before it has come back from Kafka."""
        with self._changed:
            self._book.take_label(value)

    # -- streams

    def stream(self) -> Generator[bytes, None, None]:
        """Yield server-sent events: first all that is known, then changes. Raises TooMany."""
        with self._changed:
            if self._viewers >= VIEWERS:
                raise TooMany
            self._viewers += 1
        parts = self._parts()
        next(parts)  # from here on `finally` runs, even if nobody reads any further
        return parts

    def _parts(self) -> Generator[bytes, None, None]:
        try:
            yield b""
            number, part = self._snapshot()
            while True:
                yield part
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped or self._number != number, HEARTBEAT)  # noqa: B023
                    if self._stopped:
                        return
                    missed = self._number - number
                    new = b"".join(list(self._updates)[-missed:]) if 0 < missed <= len(self._updates) else None
                    last = self._number
                if not missed:
                    part = b":\n\n"
                elif new is not None:
                    number, part = last, new
                else:
                    number, part = self._snapshot()
        finally:
            with self._changed:
                self._viewers -= 1
                self._wanted_until = time.monotonic() + LINGER

    def _snapshot(self) -> tuple[int, bytes]:
        with self._changed:
            self._wake_feed()
            looks = list(self._looks)
            snapshot = {
                "about": self._about(),
                "history": {
                    "time": [round(look.time, 1) for look in looks],
                    "rate": [round(look.rate, 1) for look in looks],
                    "lag": [look.lag for look in looks],
                },
                "incidents": self._book.shown(),
                **self._state(),
            }
            number = self._number
        return number, _event(snapshot)

    def _about(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "group": settings.kafka.group,
            "sensors": settings.topics.sensors,
            "labels": settings.http.takes_labels,
            "every": EVERY,
            "kept": KEPT,
        }

    # -- the counters, each second

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + EVERY, time.monotonic())
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, max(due - time.monotonic(), 0))
                if self._stopped:
                    return
            try:
                self._look()
                self._update()
            except Exception:
                log.exception("page_update_failed")

    def _look(self) -> None:
        m, now = self._metrics, time.time()
        vectors, past = total(m.vectors), self._looks[-min(SMOOTH, len(self._looks))] if self._looks else None
        rate = 0.0 if past is None or now <= past.time else max((vectors - past.vectors) / (now - past.time), 0.0)
        look = CounterSample(
            time=now, vectors=vectors, events=total(m.events), dead=total(m.dead_letters), lag=total(m.lag), rate=rate
        )
        with self._changed:
            self._looks.append(look)
            for model, resident in self._models.by_name.items():
                before = self._serving.get(model)
                if before is None or before[0] != resident.version:
                    self._serving[model] = (resident.version, now)
                    if before is not None:
                        swap = {"time": now, "model": cut(model), "version": cut(resident.version)}
                        self._swaps.append(swap | {"before": cut(before[0])})

    def _update(self) -> None:
        with self._changed:
            if not self._viewers:
                return
            self._wake_feed()
            incidents, removed = self._book.news()
            update = {**self._state(), "incidents": incidents, "gone": removed}
            for name in ("swaps", "decisions"):  # these change seldom
                if update[name] == self._sent.get(name):
                    del update[name]
                else:
                    self._sent[name] = update[name]
            self._updates.append(_event(update))
            self._number += 1
            self._changed.notify_all()

    def _state(self) -> dict[str, Any]:
        """Return what each viewer gets each second."""
        health = self._health()
        look, first = (
            (self._looks[-1], self._looks[0])
            if self._looks
            else (CounterSample(time=time.time(), vectors=0, events=0, dead=0, lag=0, rate=0),) * 2
        )
        now = {
            "time": round(look.time, 1),
            "rate": round(look.rate, 1),
            "lag": look.lag,
            "vectors": look.vectors,
            "events": look.events,
            "dead": look.dead,
            "unmatched": total(self._metrics.unmatched),
            "recent": {
                "seconds": round(look.time - first.time),
                "vectors": look.vectors - first.vectors,
                "events": look.events - first.events,
                "dead": look.dead - first.dead,
            },
            "live": health.live,
            "ready": health.ready,
            "waits_for": health.detail.get("waits_for"),
            "refused": [cut(model) for model in health.detail.get("refused_models", ())],
            "models": self._shown_models(),
        }
        return {
            "now": now,
            "swaps": list(self._swaps),
            "decisions": self._shown_decisions(),
            "reading": self._reading,
            "problem": self._problem,
        }

    def _shown_models(self) -> list[dict[str, Any]]:
        return [
            {
                "name": cut(model),
                "version": cut(resident.version),
                "kind": cut(resident.card.kind),
                "made": _seconds(resident.card.created),
                "since": self._serving.get(model, (None, None))[1],
                "budget": resident.budget,
                "expected": resident.expected_rate,
                "at_most": None if math.isnan(resident.promise.at_most) else resident.promise.at_most,
                "sensors": len(resident.features),
            }
            for model, resident in self._models.by_name.items()
        ]

    def _shown_decisions(self) -> list[dict[str, Any]]:
        """Return the decisions, the newest first."""
        decisions: list[dict[str, Any]] = [
            {
                "time": _seconds(entry.get("when")),
                "model": cut(model),
                **{name: cut(entry.get(name) or "") for name in ("what", "version", "from", "who", "why")},
            }
            for model, entries in self._decisions().items()
            for entry in entries
        ]
        return sorted(decisions, key=lambda decision: -(decision["time"] or 0.0))[:_DECISIONS]

    # -- incidents, while somebody looks

    def _wake_feed(self) -> None:
        """Have incidents read for some time. The lock must be held."""
        self._wanted_until = time.monotonic() + LINGER
        if self._reader is None and not self._stopped:
            self._book = IncidentBook(self._settings.source, TopicSet.of(self._settings.topics.sensors))
            self._reading, self._problem = True, False
            self._reader = threading.Thread(target=self._read, name="page-reader", daemon=True)
            self._reader.start()

    def _has_viewers(self) -> bool:
        with self._changed:
            if self._reader is not threading.current_thread():  # it was given up, and another one has begun
                return False
            wanted = not self._stopped and (self._viewers > 0 or time.monotonic() < self._wanted_until)
            if not wanted:
                self._reader = None
            return wanted

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped, seconds)

    def _read(self) -> None:
        while self._has_viewers():
            try:
                self._follow()
            except Exception as error:
                expected = isinstance(error, KafkaUnavailable)
                log.warning("page_incidents_disabled", error=str(error), exc_info=not expected)
                with self._changed:
                    self._problem = True
                self._pause(2.0)

    def _follow(self) -> None:
        """Follow incidents from the latest on, until nobody looks any more."""
        kafka, topics = self._settings.kafka, self._settings.topics
        with contextlib.ExitStack() as stack:
            incidents = stack.enter_context(Reader(kafka, topics.incidents, RECORDS, patience=READ_EVERY))
            share = BACKLOG // max(len(incidents.partitions()), 1)
            incidents.seek({p: max(end - share, 0) for p, end in incidents.ends().items()})
            labels = self._labels(stack)
            while self._has_viewers():
                block = incidents.poll(READ_EVERY)
                said = labels.poll(0.01) if labels is not None else None
                done = not self._reading or incidents.caught_up()
                with self._changed:
                    for value in block.values if block else ():
                        self._book.take(value)
                    for value in said.values if said else ():
                        self._book.take_label(value)
                    self._reading, self._problem = not done, False
                # During a backlog, short pauses leave time for the loop. Otherwise new records are read now and then.
                self._pause(READ_EVERY if done else 0.005)

    def _labels(self, stack: contextlib.ExitStack) -> Reader | None:
        """Return a reader of labels, where labels are allowed and the worker may read them."""
        if not self._settings.http.takes_labels:
            return None
        try:
            kafka, topic = self._settings.kafka, self._settings.topics.labels
            return stack.enter_context(Reader(kafka, topic, RECORDS, patience=READ_EVERY))
        except KafkaUnavailable as error:
            log.info("page_labels_disabled", error=str(error))
            return None


def _event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def _seconds(time: Any) -> float | None:
    """Return seconds since the epoch; None if it is no time."""
    at_ms = milliseconds(time)
    return None if at_ms is None else at_ms / 1000

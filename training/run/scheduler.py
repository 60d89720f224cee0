"""`python -m training serve`: trains repeatedly.

It trains on a schedule, on request, and as soon as there is enough data for a first model. It also trains again if the
champion's threshold had to be a cautious one, because it was fitted to a plant in motion or to few rows.

A training settles all requests that were made before it began. All state is in the registry and in the topic of
requests, so that a restarted scheduler continues where it was.
"""

import contextlib
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple

import orjson
import structlog
from cronsim import CronSim

from training.data import window
from training.fitting.calibration_rows import SEEN
from training.run import job
from worker import cli
from worker.blocks.timestamps import milliseconds
from worker.errors import NoModelError, OffnormalError
from worker.kafka.reader import Reader
from worker.kafka.topics import require
from worker.models import ModelCard
from worker.models.calibration import WITHIN
from worker.registry import Registry, RegistryView
from worker.settings import Settings

log = structlog.get_logger()

LOOK_EVERY: Final = 1.0  # seconds
AGAIN: Final = (5.0, 300.0)  # seconds after a failure, at first and at most
TRY_EVERY: Final = 60.0  # seconds, for a first model where there are fewer records than rows are needed
FIRST: Final = "the first model"
BETTER: Final = 0.1  # share of the look-back that must be new before a champion of a cautious threshold is retrained
NEWEST_EVERY, CHAMPION_EVERY = 5.0, 60.0  # seconds between two checks for that


class TrainingRequest(NamedTuple):
    """A request for a training: when, and why."""

    time: float  # seconds since the epoch
    reason: str


def run(settings: Settings, arguments: Namespace) -> None:
    """Train whenever the schedule or a request asks for it, until stopped."""
    topics = settings.topics
    reads = [*job.reads(settings), topics.training_requests]
    require(settings, reads=reads, writes=[topics.models])
    serve = Serve(settings)
    cli.on_stop(serve.stop)
    serve.run()


class Serve:
    """A scheduler that trains one model whenever a training is due; it calls `train` with the reason."""

    def __init__(self, settings: Settings, train: Callable[[Settings, str], object] = job.run):
        self._settings, self._train = settings, train
        self._stop = threading.Event()
        self._asked: TrainingRequest | None = None
        self._scheduled: float | None = None
        self._began = 0.0  # the last training that was run here
        self._untrained = True
        self._not_before, self._patience = 0.0, AGAIN[0]
        self._tried = 0.0
        self._seen = 0  # the newest record of the last training that was run here, ms
        self._better_from: int | None = None  # the record time (ms) from which a retraining may help
        self._newest_at = self._champion_at = 0.0  # when to look for that again

    def stop(self) -> None:
        """Stop, after a training that is under way."""
        self._stop.set()

    def run(self) -> None:
        """Train whenever a training is due, until stopped."""
        settings = self._settings
        self._schedule(time.time())
        log.info("training_scheduler_started", model=settings.model.name, schedule=settings.training.schedule)
        with Reader(settings.kafka, settings.topics.training_requests, patience=0.5) as requests:
            while not self._stop.is_set():
                try:
                    self._read(requests)
                    why = self.due(time.time())
                    if why is not None:
                        self._run(why)
                except OffnormalError as error:
                    log.warning("training_retry_scheduled", error=str(error), again_in=AGAIN[0])
                    self._stop.wait(AGAIN[0])
        log.info("training_scheduler_stopped")

    def due(self, now: float) -> str | None:
        """Return why to train at time `now` (s), if there is a reason."""
        scheduled = self._scheduled is not None and now >= self._scheduled
        is_requested = scheduled or self._asked or self._untrained
        if now < self._not_before or not (is_requested or now >= self._champion_at or self._may_be_better(now)):
            return None
        view = Registry(self._settings).view()
        self._champion_at = now + CHAMPION_EVERY
        self._untrained = view.champion() is None
        if self._untrained:
            return FIRST if self._may_be_enough(now) else None
        last = max(self._began, last_training(view))
        if scheduled:
            missed = self._scheduled or 0.0
            self._schedule(now)
            if last < missed:  # otherwise another training has been run since
                return f"schedule {self._settings.training.schedule}"
        if self._asked is not None and self._asked.time <= last:
            self._asked = None
        if self._asked is not None:
            self._not_before = last + self._settings.training.cooldown
            return self._asked.reason if now >= self._not_before else None
        why = self._better(view)
        if why is not None and now < last + self._settings.training.cooldown:
            self._newest_at, why = last + self._settings.training.cooldown, None
        return why

    def _better(self, view: RegistryView) -> str | None:
        """Return why to retrain a champion whose threshold is cautious, once enough records have come; else None."""
        self._better_from = None
        with contextlib.suppress(OffnormalError):  # a champion that cannot be read is no reason to train
            card = view.card(view.champion() or "")
            after = better_after(card, self._settings.training.lookback)
            if after is None or view.pinned():
                return None
            self._better_from = max(after, self._seen + int(BETTER * self._settings.training.lookback * 1000))
            if self._newest() >= self._better_from:
                rate = card.quality["false_alarm_rate"]
                return f"the champion's threshold is for {rate['expected']:.2g}, {rate['asked']:.2g} is asked for"
        return None

    def _may_be_better(self, now: float) -> bool:
        if self._better_from is None or now < self._newest_at:
            return False
        self._newest_at = now + NEWEST_EVERY
        return self._newest() >= self._better_from

    def _newest(self) -> int:
        with Reader(self._settings.kafka, self._settings.topics.sensors) as reader:
            return reader.newest() or 0

    def _run(self, why: str) -> None:
        begin = self._tried = time.time()
        self._seen, self._champion_at = self._newest(), 0.0
        try:
            self._train(self._settings, why)
        except NoModelError as error:
            log.warning("training_postponed", why=why, error=str(error))
            self._not_before = time.time() + AGAIN[0]
        except OffnormalError as error:
            log.error("training_failed", why=why, error=str(error), again_in=self._patience)
            self._not_before = time.time() + self._patience
            self._patience = min(2 * self._patience, AGAIN[1])
            return  # what asked for it stands
        self._began, self._patience = begin, AGAIN[0]

    def _schedule(self, after: float) -> None:
        expression = self._settings.training.schedule
        if expression:
            self._scheduled = next(CronSim(expression, datetime.fromtimestamp(after, UTC))).timestamp()

    def _read(self, requests: Reader) -> None:
        """Read the requests; only the latest one counts."""
        block = requests.poll(LOOK_EVERY)
        for value, timestamp in zip(block.values, block.timestamp.tolist(), strict=True) if block else ():
            try:
                doc = orjson.loads(value or b"")
                if doc["model"] == self._settings.model.name:
                    self._asked = TrainingRequest(timestamp / 1000, str(doc.get("reason") or "asked for")[:200])
            except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
                log.warning("training_request_rejected")

    def _may_be_enough(self, now: float) -> bool:
        """Return whether there are as many records as rows are needed.

        Fewer records may suffice if each holds several rows, so a training is also tried now and then.
        """
        training = self._settings.training
        with Reader(self._settings.kafka, self._settings.topics.sensors) as reader:
            begin = reader.offsets_at(window.reach(reader, training.lookback))
            records = sum(reader.ends()[p] - begin[p] for p in begin)
        return records >= training.min_rows or (records > 0 and now - self._tried >= TRY_EVERY)


def better_after(card: ModelCard, lookback: float) -> int | None:
    """Return the record time (ms) after which a retraining may give a better model.

    This is for a model whose threshold had to be a cautious one. Returns None if it had not, or if a full window of the
    plant has no more rows.
    """
    rate, rows = card.quality.get("false_alarm_rate") or {}, card.rows.get("calibrated", 0)
    begin, end = (milliseconds(card.trained_on.get(edge)) for edge in ("from", "to"))
    asked = rate.get("asked", 0.0)
    if begin is None or end is None or rate.get("expected", asked) >= asked / WITHIN:
        return None
    is_full = end - begin >= (1 - BETTER) * lookback * 1000
    if is_full and rows * asked < SEEN:
        return None
    return end + int(BETTER * lookback * 1000)


def last_training(view: RegistryView) -> float:
    """Return when the last training was begun, in seconds since the epoch; 0 if there was none.

    For a training whose begin is not recorded, it is the time of its decision.
    """
    latest = 0
    for entry in view.history():
        if entry.get("what") in ("promoted", "refused", "challenger"):
            latest = max(latest, milliseconds(entry.get("trained_at") or entry.get("when")) or 0)
    return latest / 1000

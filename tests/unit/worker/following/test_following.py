"""Which trims are published, and when; what the brokers do with them is in tests/integration/test_following.py."""

import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.models import FEATURES, make_artefact, normal_rows
from worker.blocks import RecordBlock, TopicSet
from worker.errors import KafkaUnavailable
from worker.following import Following, following
from worker.models import Artefact
from worker.models.entities import EntityRows
from worker.models.trim import PlacedTrims, Trim
from worker.observability.metrics import Metrics, total
from worker.registry import RegistryView
from worker.registry.trim_records import place_of
from worker.serving.loaded_model import LoadedModel
from worker.serving.model_swap import ResidentModels
from worker.serving.sample import Sample
from worker.settings import Settings

TOPICS = TopicSet.of("t")
PLACE, OTHER = (place_of(Settings().kafka.group, "t", p) for p in (0, 1))
Written = list[tuple[str, bytes | None]]


@pytest.fixture(scope="module")
def artefact() -> Artefact:
    return make_artefact(seed=6)


@pytest.fixture
def model(artefact: Artefact) -> LoadedModel:
    return replace(ResidentModels(Settings()).load(artefact.dump()), follows=True)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Monotonic seconds, to be set; the time of day is a million later."""
    now = [1000.0]
    fake = SimpleNamespace(monotonic=lambda: now[0], time=lambda: 1e6 + now[0])
    monkeypatch.setattr(following, "time", fake)
    return now


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    """What was written to the models topic."""
    records: Written = []

    def write(_: object, __: str, new: Any, **more: object) -> None:
        records.extend((key, value) for key, value, _ in new)

    monkeypatch.setattr("worker.kafka.connection.write", write)
    return records


def sample(model: LoadedModel, x: np.ndarray[Any, Any], entity: int = 7, partition: int = 0, first: int = 0) -> Sample:
    """Vectors of one entity, one a second."""
    n = len(x)
    return Sample(
        resident=model,
        x=x,
        scores=np.ones(n, np.float32),
        time=(1_700_000_000 + first + np.arange(n)) * 1000,
        stands_for=np.ones(n),
        entity=np.full(n, entity, np.uint64),
        names={entity: (partition, f"m{entity}")},
        topics=TOPICS,
        place=np.zeros((n, 3), np.int64),
        scored=x,
        rows_of=EntityRows(),
    )


def moved(n: int = 500, seed: int = 0) -> np.ndarray[Any, Any]:
    return normal_rows(n, np.random.default_rng(seed)) + np.array([0, 2, 0, 0], np.float32)


def view_of(records: Written) -> RegistryView:
    """Fold records in as a reader does."""
    from worker.blocks import BytesColumn

    view, n = RegistryView("default"), len(records)
    index = np.arange(n)
    keys, values = (BytesColumn.of(list(column)) for column in zip(*((k.encode(), v) for k, v in records), strict=True))
    view.apply(RecordBlock(TOPICS, np.zeros(n, np.int64), index + 5, index, keys, values, {}))
    return view


def after(clock: list[float], own: Following) -> None:
    clock[0] += Settings().detection.follow_every
    own.publish_if_due()


@pytest.fixture
def own(clock: list[float]) -> Following:
    return Following(Settings(), Metrics())


def test_what_has_moved_is_published_when_it_is_time(
    model: LoadedModel, own: Following, clock: list[float], written: Written
) -> None:
    own.take(sample(model, moved()))
    own.publish_if_due()
    assert not written
    after(clock, own)
    ((key, value),) = written
    assert key.startswith(f"trim/default/{model.version}/{PLACE}/")
    view = view_of(written)
    assert view.last_trim(model.version) == 5
    placed = view.placed_trims(model.card)[PLACE]
    assert set(placed.trims) == {7} and placed.trims[7].shift[1] > 0.02
    assert json.loads(value or b"")["entities"][f"{7:016x}"]["name"] == "m7"
    after(clock, own)
    assert len(written) == 1, "it has not moved since"


def test_a_plant_that_stays_publishes_nothing(
    model: LoadedModel, own: Following, clock: list[float], written: Written
) -> None:
    own.take(sample(model, normal_rows(500, np.random.default_rng(1))))
    after(clock, own)
    assert not written


def test_each_partition_has_a_record_with_all_of_its_entities(
    model: LoadedModel, own: Following, clock: list[float], written: Written
) -> None:
    for entity, partition in ((7, 0), (8, 0), (9, 1)):
        own.take(sample(model, moved(), entity, partition))
    after(clock, own)
    placed = view_of(written).placed_trims(model.card)
    assert {place: set(trims.trims) for place, trims in placed.items()} == {PLACE: {7, 8}, OTHER: {9}}


def test_another_worker_goes_on_from_what_was_published(
    model: LoadedModel, own: Following, clock: list[float], written: Written
) -> None:
    for k in range(4):
        own.take(sample(model, moved(seed=k), first=500 * k))
    after(clock, own)
    placed = view_of(written).placed_trims(model.card)
    other = Following(Settings(), Metrics())
    trimmed = model.trimmed(placed, 5)
    other.take(sample(trimmed, moved(1, seed=9), first=2000))
    other.take(sample(trimmed, moved(), entity=8))
    after(clock, other)
    again = view_of(written).placed_trims(model.card)[PLACE]
    assert len(again.written) == 2 and set(again.trims) == {7, 8}
    np.testing.assert_allclose(again.trims[7].shift, placed[PLACE].trims[7].shift, atol=0.01)


def test_old_records_are_removed(model: LoadedModel, own: Following, clock: list[float], written: Written) -> None:
    before = PlacedTrims({}, tuple(range(1, 203)))
    own.take(sample(model.trimmed({PLACE: before}, 3), moved()))
    after(clock, own)
    assert [key.rsplit("/", 1)[1] for key, value in written if value is None] == ["1", "2", "3"]


def test_what_could_not_be_written_is_written_next_time(
    model: LoadedModel, own: Following, clock: list[float], written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise KafkaUnavailable("no broker")

    own.take(sample(model, moved()))
    with monkeypatch.context() as patched:
        patched.setattr("worker.kafka.connection.write", refuse)
        after(clock, own)
    after(clock, own)
    assert len(written) == 1


@pytest.mark.parametrize(
    "change",
    [lambda m: replace(m, follows=False), lambda m: replace(m, usual=None)],
    ids=["pinned, or not wanted", "of an earlier release"],
)
def test_what_is_not_to_be_followed_is_not(
    model: LoadedModel,
    own: Following,
    clock: list[float],
    written: Written,
    change: Callable[[LoadedModel], LoadedModel],
) -> None:
    own.take(sample(change(model), moved()))
    after(clock, own)
    assert not written


def test_a_new_version_begins_without(model: LoadedModel, own: Following, clock: list[float], written: Written) -> None:
    own.take(sample(model, moved()))
    newer = replace(model, card=model.card.model_copy(update={"version": "newer"}))
    own.take(sample(newer, normal_rows(100, np.random.default_rng(3)), first=500))
    after(clock, own)
    assert not written


def test_an_ignored_sensor_is_counted(model: LoadedModel, clock: list[float], written: Written) -> None:
    metrics = Metrics()
    own = Following(Settings(), metrics)
    for k in range(7):
        x = normal_rows(500, np.random.default_rng(k))
        x[:, 1] = 1e6
        own.take(sample(model, x, first=500 * k))
    after(clock, own)
    assert (total(metrics.ignored_sensors), total(metrics.trims)) == (1, 1)
    placed = view_of(written).placed_trims(model.card)[PLACE]
    assert [FEATURES[j] for j in np.flatnonzero(placed.trims[7].ignored)] == [FEATURES[1]]


def test_what_another_worker_has_published_since_is_gone_on_from(
    model: LoadedModel, own: Following, clock: list[float], written: Written
) -> None:
    """A partition that was another's for a while: its trims are newer than what this worker remembers."""
    own.take(sample(model, moved()))
    after(clock, own)
    theirs = Trim(np.full(4, 0.5, np.float32), np.zeros(4, np.float32), np.zeros(4, bool))
    trimmed = model.trimmed({PLACE: PlacedTrims({7: theirs}, (10**12,))}, 9)
    after(clock, own)
    assert len(written) == 1, "it says nothing of entities it does not hear of"
    own.take(sample(trimmed, moved(), first=500))
    after(clock, own)
    shift = view_of(written).placed_trims(model.card)[PLACE].trims[7].shift
    np.testing.assert_allclose(shift, 0.5, atol=0.2)


def test_a_clock_that_was_ahead_once_does_not_end_it(
    model: LoadedModel, own: Following, clock: list[float], written: Written
) -> None:
    own.take(sample(model, moved(1), first=10**8))
    own.take(sample(model, moved(1)))
    own.take(sample(model, moved(), first=1))
    after(clock, own)
    assert len(written) == 1

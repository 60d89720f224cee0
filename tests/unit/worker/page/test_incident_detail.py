"""One incident in detail: what Kafka still has of it, scored by the current model, within bounds."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orjson
import pytest

from tests.models import FEATURES, make_artefact, normal_rows
from tests.unit.worker.page.test_feed import incident
from worker.blocks import BytesColumn, RecordBlock, TopicSet
from worker.blocks.entity_hash import hashes
from worker.blocks.vector_id import VectorId
from worker.detection.incident import Incident
from worker.models import Artefact
from worker.page import incident_detail as stretches
from worker.page.incident_detail import SHOWN, IncidentDetail, _conspicuous
from worker.serving.model_swap import ResidentModels
from worker.settings import EntitySettings, InputSettings, ModelSettings, Settings

ENTITIES = (b"press-1", b"press-2", b"press-3")


class Log:
    """A partition: the records from `start` on, given to readers in small blocks."""

    def __init__(self) -> None:
        self.keys: list[bytes | None] = []
        self.values: list[bytes | None] = []
        self.start = 0
        self.reads = 0

    def block(self, begin: int, end: int) -> RecordBlock:
        at = np.arange(begin, end)
        keys, values = BytesColumn.of(self.keys[begin:end]), BytesColumn.of(self.values[begin:end])
        return RecordBlock(
            TopicSet.of("t"), np.zeros(len(at), np.int64), at, 1_700_000_000_000 + 1000 * at, keys, values, {}
        )

    def identity(self, offset: int) -> int:
        block = self.block(offset, offset + 1)
        return int(hashes(block, block.keys)[0])

    def reader(self, *_: Any, **__: Any) -> "FakeReader":
        return FakeReader(self)


class FakeReader:
    def __init__(self, log: Log):
        self._log, self._at = log, 0

    def __enter__(self) -> "FakeReader":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def starts(self) -> dict[int, int]:
        return {0: self._log.start}

    def partitions(self) -> list[int]:
        return [0]

    def seek(self, offsets: dict[int, int]) -> None:
        self._at = max(offsets[0], self._log.start)

    def caught_up(self) -> bool:
        return True

    def poll(self, _: float) -> RecordBlock | None:
        begin, self._at = self._at, min(self._at + 700, len(self._log.keys))
        self._log.reads += self._at - begin
        return self._log.block(begin, self._at) if self._at > begin else None


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    made = Log()
    monkeypatch.setattr(stretches, "sensor_reader", made.reader)
    yield made


def fill(log: Log, rounds: int, off: range = range(0), much: float = 40) -> None:
    """Of each entity a vector in turn; press-2's `speed` is off in these rounds."""
    rows = normal_rows(rounds * len(ENTITIES), np.random.default_rng(3)).astype(float)
    for i, row in enumerate(rows.tolist()):
        if i // 3 in off and i % 3 == 1:
            row[2] += much
        log.keys.append(ENTITIES[i % 3])
        log.values.append(json.dumps(row).encode())


def first(round: int) -> VectorId:
    return VectorId("t", 0, 3 * round + 1, 0)


def known(log: Log, begin: int, end: int, **more: Any) -> Incident:
    places = {"first": (3 * begin + 1, 0), "last": (3 * end + 1, 0), "identity": log.identity(first(begin).offset)}
    return incident(**({"partition": 0, "evidence": {"speed": 9.0, "heat": 1.0}} | places | more))  # type: ignore[arg-type]


Make = Callable[..., IncidentDetail]


@pytest.fixture
def make(artefact: Artefact) -> Make:
    def stretch(made: Artefact = artefact, **settings: Any) -> IncidentDetail:
        told = Settings(**settings)
        models = ResidentModels(told)
        models.swap(models.load(made.dump()))
        return IncidentDetail(told, models)

    return stretch


def valid(told: dict[str, Any]) -> dict[str, Any]:
    """As a browser has it."""
    found: dict[str, Any] = json.loads(orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY))
    return found


def test_the_entitys_vectors_around_it_scored_again(log: Log, make: Make, artefact: Artefact) -> None:
    fill(log, 1000, range(500, 520))
    told = valid(make().around(first(500), known(log, 500, 519)))
    assert len(told["time"]) == 200 + 20 + 200 == told["vectors"] and sum(told["within"]) == 20
    over = [s >= told["threshold"] for s in told["score"]]
    assert all(over[200:220]) and sum(over) < 25
    assert [each["name"] for each in told["sensors"]] == ["speed", "heat"]
    assert abs(told["sensors"][0]["actual"][210] - told["sensors"][0]["expected"][210]) > 20
    assert told["model"]["version"] == artefact.card.version and not told["gone"] and not told["cut"]


def test_scores_are_the_loops(log: Log, make: Make, artefact: Artefact) -> None:
    fill(log, 400, range(200, 205))
    told = make().around(first(200), known(log, 200, 204))
    models = ResidentModels(Settings())
    x = np.array([json.loads(v or b"") for v in log.values[1::3]], np.float32)
    expected = models.load(artefact.dump()).score(x)
    np.testing.assert_allclose(told["score"], expected, rtol=1e-3)


def test_far_apart_vectors_are_looked_for_further_back(log: Log, make: Make) -> None:
    fill(log, 1000, range(900, 905))
    told = make().around(first(900), known(log, 900, 904))
    log.keys = [key if key == b"press-2" and i % 9 == 1 else b"other" for i, key in enumerate(log.keys)]
    assert make().around(first(900), known(log, 900, 904))["vectors"] >= 200
    assert told["records"] < 3000


def test_an_event_that_nothing_is_known_of(log: Log, make: Make) -> None:
    fill(log, 500, range(300, 301))
    told = make().around(first(300), None)
    assert told["sensors"][0]["name"] == "speed" and told["named_by"] == []


def test_what_retention_has_deleted_is_said(log: Log, make: Make) -> None:
    fill(log, 600, range(300, 400))
    it = known(log, 300, 399)
    log.start = 3 * 350
    told = make().around(first(300), it)
    assert told["gone"] and 0 < sum(told["within"]) <= 50
    log.start = len(log.keys)
    assert make().around(first(300), it) == {"gone": True, "records": 0}
    assert make().around(first(300), None) == {"gone": True, "records": 0}
    assert make().around(VectorId("t", 0, 10**12, 0), None)["gone"]


def test_an_entity_without_a_name_and_records_that_do_not_parse(log: Log, make: Make) -> None:
    fill(log, 300, range(200, 205))
    log.keys = [None] * len(log.keys)
    for i, nonsense in enumerate([b"", b"\xff", b'{"x":', b"[1]", None, b"[null,null,null,null]", b"[1e39,0,0,0]"]):
        log.values[3 * (190 + i)] = nonsense
    told = valid(make().around(first(200), known(log, 200, 204, entity=None)))
    assert None in told["score"] and told["vectors"] > 200


def test_a_model_that_knows_other_sensors(log: Log, make: Make) -> None:
    fill(log, 300, range(200, 205))
    it = known(log, 200, 204, evidence={"gone <b>": 9.0, "speed": 1.0, "heat": 0.001}, models=[("default", "old")])
    told = make().around(first(200), it)
    assert [each["name"] for each in told["sensors"]] == ["speed"] and told["absent"] == ["gone <b>"]
    assert told["named_by"] == ["old"]
    told = make().around(first(200), known(log, 200, 204, evidence={"a": 1.0}))
    assert told["sensors"][0]["name"] == "speed" and told["absent"] == ["a"]


@pytest.mark.parametrize("window", [4, 32])
def test_with_windows(log: Log, make: Make, window: int) -> None:
    fill(log, 900, range(500, 540))
    stretch = make(make_artefact(0, window=window), model=ModelSettings(window=window))
    told = valid(stretch.around(first(500), known(log, 500, 539)))
    assert told["vectors"] == 200 + 40 + 200 and None not in told["score"]
    assert sum(s >= told["threshold"] for s in told["score"][200:240]) > 30


def test_entities_that_the_payload_names_and_scalers_of_their_own(log: Log, make: Make) -> None:
    fill(log, 400, range(200, 205))
    for i, value in enumerate(log.values):
        row = dict(zip(FEATURES, json.loads(value or b""), strict=True))
        log.values[i] = json.dumps(row | {"machine": (log.keys[i] or b"").decode()}).encode()
    it = known(log, 200, 204)
    log.keys = [b"line"] * len(log.keys)
    stretch = make(make_artefact(0, entities=("press-1", "press-2")), input=InputSettings(entity_field="machine"))
    told = stretch.around(first(200), it)
    assert told["vectors"] == 400 and sum(told["within"]) == 5
    assert stretch.around(first(200), None)["vectors"] == 400


def test_it_is_bounded(log: Log, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretches, "RECORDS", 12_000)
    fill(log, 20_000, range(2_000, 20_000), much=5)
    told = make().around(first(2_000), known(log, 2_000, 19_999))
    assert told["cut"] and len(told["time"]) <= SHOWN and log.reads < 25_000
    monkeypatch.setattr(stretches, "VALUES", 1000)
    assert make().around(first(2_000), known(log, 2_000, 19_999))["vectors"] <= 250
    monkeypatch.setattr(stretches, "PATIENCE", -1.0)
    assert make().around(first(2_000), known(log, 2_000, 19_999))["records"] == 0


def test_where_there_is_no_model(log: Log) -> None:
    fill(log, 10)
    with pytest.raises(LookupError):
        IncidentDetail(Settings(), ResidentModels(Settings())).around(first(5), None)


def test_of_too_many_the_conspicuous_are_shown() -> None:
    scores = np.zeros(100_001, np.float32)
    scores[[7, 50_000, 100_000]] = 9
    scores[60_000:70_000] = np.nan
    kept = _conspicuous(scores, SHOWN)
    assert len(kept) == SHOWN and (np.diff(kept) > 0).all() and {7, 50_000, 100_000} <= set(kept.tolist())


@pytest.mark.parametrize(
    "id",
    [
        "",
        "t",
        "t/0/0",
        "t/0/0/0/0",
        "u/0/0/0",
        "t/-1/0/0",
        "t/0/0/99999999999999999999",
        "t/9999999999/0/0",
        "t/0/٣/0",
        "t/0/0/0\n",
    ],
)
def test_what_is_no_id(id: str) -> None:
    assert VectorId.parse(id, TopicSet.of("t")) is None


def test_windows_take_one_entitys_memory(make: Make) -> None:
    stretch = make(make_artefact(0, window=4), model=ModelSettings(window=4), entities=EntitySettings(max=10_000_000))
    resident = stretch._models.serving("default")
    assert resident is not None
    _, _, windows = stretch._ways(resident)
    assert windows is not None and windows._rings.nbytes < 10_000

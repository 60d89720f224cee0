"""The report of a training: what is collected, that it travels with the model, and the page that shows it."""

import gzip
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_tensors

from tests.models import normal_rows
from tests.unit.worker.models.test_artefact import forged
from training.__main__ import main
from training.data import selection
from training.data.evidence import VectorFlags
from training.data.selection import Selection
from training.data.series import windows
from training.data.window import RejectedRecords, Window
from training.fitting.champion_scores import ChampionScores
from training.fitting.fit import Fitted
from training.gate.gate import Verdict
from training.report import report
from training.report.collect import BINS, FEATURES, NAME, WORST, Report, collect
from training.report.svg_plot import Axis
from training.run import job, model_card
from training.run.progress import Shown
from worker.errors import ArtefactError, NoModelError
from worker.models import Artefact, Detector
from worker.models.wavelet import blocks
from worker.registry import AliasRecord, RegistryView
from worker.settings import ModelSettings, Settings, TrainingSettings

SECTIONS = ["gate", "rows", "learning", "comparison", "faults", "features", "worst"]
HOSTILE = '</title></svg><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)> & \u202e\x00"'
TIME = 1_790_000_000_000


def settings(**model: Any) -> Settings:
    return Settings(
        device="cpu",
        training=TrainingSettings(min_rows=200, steps=60),
        model=ModelSettings(kind="stacked", **model),
    )


def window(
    n: int = 1500,
    names: tuple[str, ...] = ("pressure", "flow", "speed", "heat"),
    w: int = 1,
    entities: tuple[str, ...] = ("press-1",),
    missing: float = 0.0,
    drift: int | None = None,
) -> Window:
    rng = np.random.default_rng(0)
    x = np.concatenate([normal_rows(n, rng) for _ in range(-(-len(names) // 4))], 1)[:, : len(names)]
    x[300:320, 0] += 50
    x[rng.random(x.shape) < missing] = np.nan
    known = np.zeros(n, np.uint8)
    known[300:320] = VectorFlags.NAMED | VectorFlags.INCIDENT
    known[500:530] = VectorFlags.NAMED | VectorFlags.DISMISSED
    known[700:710] = VectorFlags.NAMED | VectorFlags.CONFIRMED
    known[900:950] = VectorFlags.FAULTY
    entity = np.arange(n) % len(entities)
    x += 20 * entity[:, None].astype(np.float32)
    if w > 1:
        given, wide = Settings(model=ModelSettings(window=w)), np.empty((n, x.shape[1] * blocks(w)), np.float32)
        for e in range(len(entities)):
            wide[entity == e] = windows(x[entity == e], given, padded=True)
        x = wide
    confirmed = (known & VectorFlags.CONFIRMED) > 0
    time = TIME + 1000 * np.arange(n)
    of = (x[confirmed], entity[confirmed])
    return Window(names, x, time, known, entity, entities, 3 * n, RejectedRecords(), 0, {0: [0, n]}, *of, drift)


class Made:
    """A training without its Kafka."""

    def __init__(self, given: Settings, rows: Window, champion: Detector | None = None):
        self.rows = rows
        self.opinion = None if champion is None else ChampionScores.of(champion, rows.x, rows.entity, rows.entities)
        self.selected: Selection = selection.select(given, rows, None if self.opinion is None else self.opinion.p_value)
        self.fitted: Fitted = job._fit(given, rows, self.selected, self.opinion, Shown())
        detector = self.fitted.detector
        self.verdict: Verdict = job._judge(given, rows, self.selected, detector, champion, self.opinion)
        parent = None if champion is None else "20260101T000000-aaaaaa"
        bare = model_card.make_artefact(given, rows, self.selected, self.fitted, self.verdict, parent, "a test")
        self.artefact = report.attach(bare, rows, self.selected, self.fitted, self.verdict, self.opinion)

    @property
    def report(self) -> Report:
        return collect(self.rows, self.selected, self.fitted, self.verdict, self.opinion)

    def page(self, role: str = "champion") -> str:
        return report.draw(self.artefact, role).decode()


@pytest.fixture(scope="module")
def first() -> Made:
    return Made(settings(), window())


@pytest.fixture(scope="module")
def second(first: Made) -> Made:
    return Made(settings(), window(drift=TIME + 1_000_000), first.fitted.detector)


@pytest.fixture(scope="module")
def windowed() -> Made:
    """With all that makes it harder."""
    names = tuple(f"{HOSTILE}{i}" for i in range(6))
    rows = window(1200, names, 8, tuple(f"{HOSTILE}{i}" for i in range(3)), missing=0.05)
    return Made(settings(window=8, scaler="entity"), rows)


class Balanced(HTMLParser):
    """Fails unless every element is closed where it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def parsed(page: str) -> Balanced:
    found = Balanced()
    found.feed(page)
    found.close()
    assert not found.open
    return found


def test_each_row_is_counted_once_by_its_use_and_by_what_is_known(first: Made) -> None:
    told = first.report.timeline
    assert all(len(counts) == BINS for counts in (*told.uses.values(), *told.known.values()))
    assert {use: sum(counts) for use, counts in told.uses.items()} == {
        "fitted": int(first.selected.fit.sum()),
        "calibrated": int(first.selected.calibrate.sum()),
        "gate": int(first.selected.gate.sum()),
        "left out": int((~(first.selected.fit | first.selected.calibrate | first.selected.gate)).sum()),
    }
    assert {known: sum(counts) for known, counts in told.known.items()} == {
        "named": 60,
        "incident": 20,
        "dismissed": 30,
        "confirmed": 10,
        "faulty": 50,
    }
    assert told.since is None and (told.begin, told.end) == (TIME, TIME + 1_499_000)


def test_a_clock_that_is_wrong_does_not_squeeze_the_others_together(first: Made) -> None:
    time = first.rows.time.copy()
    time[-1] += 10**12
    told = collect(replace(first.rows, time=time), first.selected, first.fitted, first.verdict).timeline
    assert told.end < TIME + 2_000_000
    assert sum(map(sum, told.uses.values())) == len(time)


def test_the_curves_are_those_of_the_fit(first: Made) -> None:
    told = first.report
    assert len(told.training.loss) == len(told.training.held_out) == 30
    assert min(told.training.held_out) == pytest.approx(first.fitted.held_out_loss, rel=1e-3)
    assert told.tail.rows == first.fitted.calibrated
    assert told.tail.share[-1] == 1 and list(told.tail.share) == sorted(told.tail.share)
    assert told.tail.score[0] == pytest.approx(first.fitted.scores.max(), rel=1e-3)
    calibration = first.fitted.detector.calibration
    assert told.tail.fit_share == pytest.approx(calibration.p_value(told.tail.fit_score), rel=0.02)


def test_a_fault_that_was_left_out_is_among_the_worst_with_its_sensor(first: Made) -> None:
    worst = first.report.worst
    assert [row.score for row in worst] == sorted((row.score for row in worst), reverse=True)
    bad = next(row for row in worst if "incident" in row.known)
    assert (bad.entity, bad.use) == ("press-1", "left out")
    assert TIME + 300_000 <= bad.time < TIME + 320_000
    guilty = max(bad.features, key=lambda f: abs((f.actual or 0) - f.expected))
    assert guilty.name == "pressure" and guilty.actual == pytest.approx(60, abs=10)


def test_a_champion_is_compared_on_the_rows_of_the_gate(first: Made, second: Made) -> None:
    assert first.report.cloud is None and first.report.kept.champion is None
    told = second.report
    assert told.cloud is not None and told.kept.champion is not None
    assert len(told.cloud.p_value) == len(told.cloud.champion) > 20
    assert told.kept.observed[-1] == told.kept.champion[-1] == 1
    assert told.timeline.since == TIME + 1_000_000
    assert "champion_promised" in second.verdict.figures["false_alarms"]


def test_windows_missing_readings_and_entities(windowed: Made) -> None:
    """All in the units of the rows, the newest reading of a window."""
    told = windowed.report
    assert told.features.of == len(told.features.worst) == 6
    assert all(0.03 < f.missing < 0.2 for f in told.features.worst)
    assert all(f.error is not None and 0 < f.error < 3 for f in told.features.worst)
    assert told.codes.of > 1 and len(told.codes.x) == len(told.codes.y) == len(told.codes.p_value)
    for row in told.worst:
        level = 20 * int(row.entity[-1]) if row.entity[-1].isdigit() else None
        assert len(row.features) == 4 and level is not None
        for f in row.features:
            usual = {0: 10, 1: 0, 2: -5, 3: 100}[int(f.name[-1]) % 4] + level
            assert abs(f.expected - usual) < 30, "expected as the entity has it"


def test_a_constant_feature_has_no_error_to_tell() -> None:
    rows = window(600)
    x = rows.x.copy()
    x[:, 1] = 7
    told = Made(settings(), replace(rows, x=x)).report
    assert [f.name for f in told.features.worst if f.error is None] == ["flow"]
    assert told.features.worst[-1].name == "flow"


@pytest.mark.parametrize("name", ["first", "second", "windowed"])
def test_the_page_is_whole_and_loads_nothing(name: str, request: pytest.FixtureRequest) -> None:
    page = request.getfixturevalue(name).page()
    found = parsed(page)
    assert [a["id"] for tag, a in found.seen if tag == "section"] == SECTIONS
    assert {tag for tag, _ in found.seen} & {"script", "link", "img", "iframe", "object", "use", "image"} == set()
    assert not any(key in ("src", "href", "xlink:href") or key.startswith("on") for _, a in found.seen for key in a)
    assert "url(" not in page and "@import" not in page
    assert "prefers-color-scheme" in page and "viewport" in page
    assert "nan" not in re.sub(r"[a-z]{2,}nan|nan[a-z]+", "", " ".join(re.findall(r' (?:d|x|y|width)="[^"]*"', page)))
    assert len([tag for tag, _ in found.seen if tag == "svg"]) == 8 + (name == "second")


def test_names_are_shown_and_are_nothing_but_words(windowed: Made) -> None:
    page = windowed.page(HOSTILE)
    assert "<script" not in page and "<img" not in page
    assert "&lt;script&gt;" in page and "\u202e" not in page and "\x00" not in page
    assert "<script>alert(1)</script>" in parsed(page).words


def test_a_refusal_is_shown_with_its_reasons(first: Made) -> None:
    gate = {**first.artefact.card.quality["gate"], "passed": False, "reasons": ["too <loud>", "it sleeps"]}
    card = first.artefact.card.model_copy(update={"quality": {**first.artefact.card.quality, "gate": gate}})
    page = report.draw(replace(first.artefact, card=card), "refused").decode()
    assert "The gate refuses it." in page and "<li>too &lt;loud&gt;</li><li>it sleeps</li>" in page
    assert "The gate lets it pass." in first.page()


def test_the_size_is_bounded_whatever_the_plant() -> None:
    names = tuple("".join(map(chr, np.random.default_rng(i).integers(33, 30000, 400))) for i in range(200))
    rows = window(1000, names, entities=tuple(f"{i}{names[i % 200]}" for i in range(300)))
    made = Made(settings(), rows)
    assert made.artefact.report is not None and len(made.artefact.report) < 60_000
    told = report.unpack(made.artefact.report)
    assert len(told.features.worst) == FEATURES and told.features.of == 200
    assert len(told.worst) == WORST and max(len(f.name) for f in told.features.worst) == NAME
    assert len(made.page()) < 250_000


def test_it_travels_in_the_artefact_and_is_the_same_again(first: Made) -> None:
    data = first.artefact.dump()
    back = Artefact.load(data)
    assert back.report == first.artefact.report and back.dump() == data
    assert back.report is not None and report.unpack(back.report) == first.report
    assert report.pack(first.report) == first.artefact.report
    assert report.draw(back, "champion").decode() == first.page()


def test_a_model_without_a_report_says_so(first: Made) -> None:
    bare = Artefact.load(replace(first.artefact, report=None).dump())
    assert bare.report is None
    with pytest.raises(NoModelError, match="carries no report"):
        report.draw(bare, "")


def _flat(value: Any) -> bytes:
    return gzip.compress(json.dumps(value).encode())


def _with(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        told = json.loads(zlib.decompress(data, 31))
        change(told)
        return _flat(told)

    return changed


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"\x00" * 100, "damaged"),
        (lambda data: data[: len(data) // 2], "cut off"),
        (lambda data: gzip.compress(b" " * 50 * 2**20), "more than 4 MiB"),
        (lambda data: gzip.compress(b"[" * 100_000), "damaged"),
        (lambda data: _flat([]), "damaged"),
        (_with(lambda told: told.update(format=2)), "another version: format"),
        (_with(lambda told: told.update(more=1)), "more"),
        (_with(lambda told: told["codes"].update(x=["<script>"])), "codes.x.0"),
        (_with(lambda told: told["tail"].update(score=[1e999])), "tail.score.0"),
        (_with(lambda told: told["worst"][0].update(entity="x" * 1000)), "worst.0.entity"),
        (_with(lambda told: told["timeline"].update(uses={})), "no figures to draw"),
        (_with(lambda told: told["codes"].update(x=[])), "no figures to draw"),
    ],
)
def test_a_damaged_report_is_refused_and_the_model_is_served(
    first: Made, damage: Callable[[bytes], bytes], reason: str
) -> None:
    assert first.artefact.report is not None
    hostile = Artefact.load(replace(first.artefact, report=damage(first.artefact.report)).dump())
    with pytest.raises(ArtefactError, match=reason):
        report.draw(hostile, "")


@pytest.mark.parametrize(
    "tensor", [torch.full((3,), torch.nan), torch.zeros(0, dtype=torch.uint8), torch.ones((), dtype=torch.bfloat16)]
)
def test_a_tensor_that_is_no_report_does_not_keep_a_model_from_being_served(first: Made, tensor: torch.Tensor) -> None:
    data = forged(first.artefact.dump(), lambda tensors, card: tensors.update({"report.json": tensor}))
    assert "report.json" in load_tensors(data)
    with pytest.raises(ArtefactError):
        report.draw(Artefact.load(data), "")


def test_a_card_without_figures_is_told(artefact: Artefact, first: Made) -> None:
    with pytest.raises(ArtefactError, match="no figures"):
        report.draw(replace(artefact, report=first.artefact.report), "")


def test_a_report_that_cannot_be_made_does_not_cost_the_model(first: Made) -> None:
    broken = replace(first.fitted, scores=np.empty(0))
    made = report.attach(first.artefact, first.rows, first.selected, broken, first.verdict, None)
    assert made is first.artefact


def test_a_page_of_each_training_is_kept(first: Made, tmp_path: Path) -> None:
    directory = tmp_path / "new" / "reports"
    report.prepare(str(directory))
    report.keep(str(directory), first.artefact, "champion")
    card = first.artefact.card
    assert (directory / f"{card.name}-{card.version}.html").read_text(encoding="utf-8") == first.page()


def test_a_directory_that_cannot_be_written_is_a_warning(
    first: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    report.prepare(str(file))
    assert "report_directory_refused" in capsys.readouterr().out
    report.keep(str(file), first.artefact, "champion")
    assert "report_write_failed" in capsys.readouterr().out
    report.prepare(None)
    report.keep(None, first.artefact, "champion")


def test_what_a_version_is_now() -> None:
    view = RegistryView("m")
    view.aliases = {alias: AliasRecord(v, "", "", "") for alias, v in (("champion", "c"), ("challenger", "d"))}
    decided = [("promoted", "a"), ("refused", "b"), ("promoted", "c")]
    view.audit = {i: {"what": what, "version": version} for i, (what, version) in enumerate(decided)}
    assert [report.standing(view, v) for v in "abcdx"] == ["former champion", "refused", "champion", "challenger", ""]


def test_the_command_asks_for_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["report"])
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("axis", "labels"),
    [
        (Axis(0, 1), ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (Axis(1e-5, 1, log=True), ["10⁻⁵", "10⁻⁴", "10⁻³", "0.01", "0.1", "1"]),
        (Axis(1, 9, log=True), ["1", "2", "5"]),
        (Axis(0, 7200, time=True), ["01 Jan", "00:30", "01:00", "01:30", "02:00"]),
        (Axis(-1e18, 1e18, time=True), ["1970-01-01 00:00"]),
    ],
)
def test_ticks_are_round_numbers(axis: Axis, labels: list[str]) -> None:
    assert [label for _, label in axis.ticks()] == labels

"""The live page in a real browser, against a real worker on a real broker.

OFFNORMAL_TEST_SCREENSHOTS=1 writes docs/images anew.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.brokers import Broker
from tests.deploy.tools import axe, chromium
from tests.models import make_artefact, normal_rows
from tests.stage import Process, Stage, until
from worker.demo.broker import free_port

IMAGES = Path(__file__).parents[2] / "docs/images"
TOKEN = "a token that somebody has to know"
HOSTILE = "<img src=x onerror=alert(1)>"
FEATURES = ("pressure", "<b onclick=alert(2)>flow</b>", "speed", "heat")
STEP = 2_000  # ms between two vectors of a machine
QUIET = 60


class Plant:
    """A worker with a page, and machines that send."""

    def __init__(self, stage: Stage, port: int, worker: Process, features: tuple[str, ...]):
        self.stage, self.worker, self.features = stage, worker, features
        self.url = f"http://127.0.0.1:{port}/"
        self._rng = np.random.default_rng(5)

    def send(self, machine: str, n: int, until_ms: float, off: dict[int, float] | None = None) -> None:
        """n vectors, the last at this time; with what is added to sensors, in noise, all of them are off."""
        rows = normal_rows(n, self._rng)
        for sensor, much in (off or {}).items():
            rows[:, sensor] += much * np.linspace(0.6, 1.4, n)
        values = [
            json.dumps(dict(zip(self.features, row, strict=True)) | {"at": int(until_ms - (n - 1 - i) * STEP)}).encode()
            for i, row in enumerate(rows.astype(float).tolist())
        ]
        self.stage.send(values, keys=[machine.encode()] * n, partition=sum(machine.encode()) % 2)

    def course(self, machine: str, minutes_ago: float, off: dict[int, float], n: int = 12, after: int = 100) -> None:
        """Good operation, an incident, and, with `after`, good operation again."""
        begin = time.time() * 1000 - minutes_ago * 60_000
        self.send(machine, 150, begin)
        self.send(machine, n, begin + n * STEP, off)
        if after:
            self.send(machine, after, begin + (n + after) * STEP)


@pytest.fixture(scope="module")
def make(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Plant]]:
    made: list[Stage] = []

    def plant(features: tuple[str, ...] = FEATURES, **settings: str) -> Plant:
        port = free_port()
        told = {
            "OFFNORMAL_HTTP__HOST": "127.0.0.1",
            "OFFNORMAL_HTTP__PORT": str(port),
            "OFFNORMAL_INPUT__TIME_FIELD": "at",
            "OFFNORMAL_INCIDENTS__QUIET": str(QUIET),
            "OFFNORMAL_DETECTION__FALSE_ALARM_RATE": "0.0001",
            **settings,
        }
        stage = Stage(broker.bootstrap, tmp_path_factory.mktemp("page"), told)
        made.append(stage)
        stage.make_topics(2)
        stage.publish(make_artefact(0, features, window=stage.settings.model.window))
        worker = stage.worker()
        worker.await_log("partitions_assigned")
        return Plant(stage, port, worker, features)

    yield plant
    for stage in made:
        stage.close()


@pytest.fixture(scope="module")
def plant(make: Callable[..., Plant]) -> Plant:
    p = make(OFFNORMAL_HTTP__LABELS="true")
    p.course("press-3", 9.5, {0: 12})
    p.course("press-1", 8, {3: 30, 2: 8}, n=24)
    p.course("mixer-east", 7, {2: 2.2}, n=8)
    p.course(HOSTILE, 6.6, {1: 9})
    p.course("pump-12", 0.6, {1: 6, 0: 3}, n=16, after=0)
    return p


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield started
        started.close()


class Watched:
    """A page, and whatever it should not do."""

    def __init__(self, page: Page, origin: str):
        self.page, self.faults = page, list[str]()
        self.requests: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))
        self._origin = origin

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"{message.type}: {message.text}")

    def check(self) -> None:
        assert self.faults == []
        assert self.requests and all(url.startswith((self._origin, "data:")) for url in self.requests)


@pytest.fixture
def watch(browser: Browser) -> Iterator[Callable[..., Watched]]:
    opened: list[Watched] = []
    contexts = []

    def look(url: str, width: int = 1280, height: int = 900, dark: bool = False, **more: Any) -> Watched:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            **more,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        opened.append(Watched(page, url))
        page.goto(url)
        return opened[-1]

    yield look
    for context in contexts:
        context.close()
    for each in opened:
        each.check()


def row(page: Page, machine: str) -> Any:
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=machine, exact=True))


def opened(page: Page, machine: str) -> None:
    """Opens the machine's incident, and waits for its charts."""
    row(page, machine).get_by_role("link").click()
    expect(page.locator("#detail-charts canvas").first).to_be_visible()


def wide(page: Page) -> int:
    """Pixels by which it is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def test_it_shows_what_is_now(plant: Plant, watch: Callable[..., Watched]) -> None:
    page = watch(plant.url).page
    expect(page.locator("#link-text")).to_have_text("live")
    expect(page.locator("#state")).to_have_text("ready")
    expect(page.locator("#model")).to_have_text(plant.worker.log("model_swapped")[0]["model_version"])
    expect(page.locator("#observed-more")).to_contain_text("of normal ones 0.01 % asked for")
    expect(page.get_by_role("heading", name="Open incidents 1")).to_be_visible()
    expect(page.get_by_role("heading", name="Past incidents 4")).to_be_visible()
    expect(row(page, "press-1")).to_contain_text("heat")
    before = page.locator("#rate-more").inner_text()
    plant.send("press-9", 50, time.time() * 1000)
    expect(page.locator("#rate-more")).not_to_have_text(before)
    assert wide(page) <= 0


def test_an_incident_opens_before_ones_eyes(plant: Plant, watch: Callable[..., Watched]) -> None:
    page = watch(plant.url).page
    expect(row(page, "pump-12")).to_be_visible()
    plant.course("kiln-7", 0.7, {2: 9}, after=0)
    expect(row(page, "kiln-7")).to_contain_text("alarm")
    expect(page.locator("#said")).to_contain_text("an incident of kiln-7 has opened. 2 incidents open.")
    expect(page).to_have_title("(2) Offnormal")
    plant.send("kiln-7", 100, time.time() * 1000 + 400_000)
    expect(page.locator("#past").get_by_role("link", name="kiln-7")).to_be_visible()


def test_an_incident_in_detail(plant: Plant, watch: Callable[..., Watched]) -> None:
    page = watch(plant.url).page
    opened(page, "press-1")
    expect(page.get_by_role("heading", name="press-1")).to_be_focused()
    expect(page.locator("#detail-summary")).to_contain_text("24 vectors over the threshold")
    score = page.get_by_role("img", name="Score over time: 24 vectors")
    expect(score).to_be_visible()
    expect(page.get_by_role("img", name="heat, read and expected.")).to_be_visible()
    box = score.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#detail-charts output").first).to_contain_text("score")
    page.get_by_text("as a table").click()
    expect(page.get_by_role("table").locator("tbody tr")).to_have_count(24)
    page.reload()
    expect(page.get_by_role("heading", name="press-1")).to_be_visible()
    expect(score).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="Open incidents")).to_be_visible()
    page.go_forward()
    expect(page.get_by_role("heading", name="press-1")).to_be_visible()


def test_the_keyboard_is_enough(plant: Plant, watch: Callable[..., Watched]) -> None:
    page = watch(plant.url).page
    link = row(page, "press-3").get_by_role("link")
    expect(link).to_be_visible()
    for _ in range(30):
        page.keyboard.press("Tab")
        if link.evaluate("it => it === document.activeElement"):
            break
    expect(link).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="press-3")).to_be_focused()
    expect(page.locator("#detail-charts canvas").first).to_be_visible()
    page.keyboard.press("Escape")
    expect(row(page, "press-3").get_by_role("link")).to_be_focused()


def test_what_is_said_arrives_in_the_topic(plant: Plant, watch: Callable[..., Watched]) -> None:
    page, other = watch(plant.url).page, watch(plant.url).page
    opened(page, "mixer-east")
    page.get_by_label("Your name").fill("Ada")
    page.get_by_role("button", name="Dismiss").click()
    expect(page.locator("#label-said")).to_have_text("dismissed: the next training uses this label.")
    (label,) = (json.loads(record.value) for record in plant.stage.read(plant.stage.topics.labels))
    assert (label["verdict"], label["who"]) == ("dismissed", "Ada")
    expect(row(other, "mixer-east")).to_contain_text("dismissed")
    other.reload()
    expect(row(other, "mixer-east")).to_contain_text("dismissed")


def test_hostile_names_are_shown_and_not_run(plant: Plant, watch: Callable[..., Watched]) -> None:
    page = watch(plant.url).page
    expect(row(page, HOSTILE)).to_contain_text(FEATURES[1])
    opened(page, HOSTILE)
    expect(page.get_by_role("heading", name=HOSTILE)).to_be_visible()
    expect(page.locator("figcaption strong").nth(1)).to_have_text(FEATURES[1])
    assert page.locator("img, b").count() == 0


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 820, 360])
def test_nobody_is_kept_out(plant: Plant, watch: Callable[..., Watched], width: int, dark: bool) -> None:
    page = watch(plant.url, width=width, height=800, dark=dark).page
    expect(row(page, "press-1")).to_be_visible()
    time.sleep(1.5)  # for its numbers
    for name in ("overview", "incident"):
        if name == "incident":
            opened(page, "press-1")
        assert wide(page) <= 0, name
        page.evaluate(axe().read_text())
        found = page.evaluate("axe.run({resultTypes: ['violations']}).then(told => told.violations)")
        assert [(each["id"], [n["html"] for n in each["nodes"]]) for each in found] == []


def test_when_the_worker_goes_the_page_says_so(make: Callable[..., Plant], watch: Callable[..., Watched]) -> None:
    plant = make()
    look = watch(plant.url)
    expect(look.page.locator("#link-text")).to_have_text("live")
    begun = time.monotonic()
    assert plant.worker.stop() == 0
    assert time.monotonic() - begun < 8, "streams end with it"
    expect(look.page.locator("#link-text")).to_contain_text("reconnecting")
    again = plant.stage.worker()
    again.await_log("partitions_assigned")
    expect(look.page.locator("#link-text")).to_have_text("live")
    assert all("ERR_" in fault for fault in look.faults), "nothing but that it was away"
    look.faults.clear()


def test_a_token_is_asked_for(make: Callable[..., Plant], watch: Callable[..., Watched]) -> None:
    plant = make(OFFNORMAL_HTTP__TOKEN=TOKEN, OFFNORMAL_MODEL__WINDOW="4", OFFNORMAL_LOG__LEVEL="debug")
    plant.course("press-1", 8, {3: 60}, n=24)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{plant.url}page/stream", timeout=5)
    assert refused.value.code == 401
    urllib.request.urlopen(f"{plant.url}readyz", timeout=5).close()
    look = watch(plant.url)
    page = look.page
    page.get_by_label("Token").fill("another one")
    page.get_by_role("button", name="Open the page").click()
    expect(page.get_by_role("alert")).to_have_text("That is not the token.")
    assert all("403" in fault for fault in look.faults)
    look.faults.clear()
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("#link-text")).to_have_text("live")
    (cookie,) = page.context.cookies()
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and TOKEN not in cookie["value"]
    opened(page, "press-1")  # with windows
    expect(page.locator("#confirm")).to_be_hidden()
    assert TOKEN not in plant.worker.errors


def test_it_can_be_off(make: Callable[..., Plant]) -> None:
    plant = make(OFFNORMAL_HTTP__PAGE="false")
    for path in ("", "page/stream", "page/page.js"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(plant.url + path, timeout=5)
        assert refused.value.code == 404


@pytest.mark.skipif(not os.environ.get("OFFNORMAL_TEST_SCREENSHOTS"), reason="OFFNORMAL_TEST_SCREENSHOTS is not set")
def test_pictures(make: Callable[..., Plant], watch: Callable[..., Watched]) -> None:
    """docs/images: a plant that runs, for two minutes."""
    plant = make(
        OFFNORMAL_HTTP__LABELS="true",
        OFFNORMAL_KAFKA__GROUP="press-shop",
        OFFNORMAL_TOPICS__SENSORS="press-shop.sensors",
        features=("pressure", "flow", "speed", "heat"),
    )
    plant.course("press-3", 55, {0: 12})
    plant.course("kiln-7", 41, {2: 5, 1: 1.2}, n=9)
    plant.course("mixer-east", 26, {2: 2.6}, n=6)
    plant.course("press-1", 14, {3: 30, 2: 8}, n=24)
    page = watch(plant.url, width=1180, height=860).page
    begun = time.monotonic()

    def run() -> float:
        passed = time.monotonic() - begun
        for machine in range(8):
            plant.send(f"press-{machine + 10}", int(20 + 6 * np.sin(passed / 9)), time.time() * 1000)
        page.wait_for_timeout(700)
        return passed

    def shot(name: str) -> None:
        run(), run()
        IMAGES.mkdir(exist_ok=True)
        page.screenshot(path=IMAGES / f"{name}.png")
        assert (IMAGES / f"{name}.png").stat().st_size < 150_000

    while (passed := run()) < 120:
        if passed > 70 and not plant.worker.log("model_swapped")[1:]:
            plant.stage.publish(make_artefact(1, plant.features))
            plant.worker.await_log("model_swapped", 2)
            plant.course("pump-12", 0.6, {1: 2.4, 0: 1.5}, n=16, after=0)
    opened(page, "press-1")
    page.get_by_label("Your name").fill("Ada")
    page.get_by_role("button", name="Confirm").click()
    expect(page.locator("#label-said")).to_contain_text("confirmed")
    shot("page-incident")
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(0, 0)
    expect(row(page, "press-1")).to_contain_text("confirmed")
    shot("page-light")
    page.emulate_media(color_scheme="dark")
    shot("page-dark")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 390, "height": 1180})
    shot("page-phone")


def test_the_demo_with_the_page_stays_until_ctrl_c(tmp_path: Path) -> None:
    """The address is told at once; the page is there while the stream runs, and after the summary."""
    log = tmp_path / "demo.log"
    with log.open("wb") as out:
        demo = subprocess.Popen(
            [sys.executable, "-m", "worker", "demo", "--page", "--speed", "4000"], stdout=out, stderr=subprocess.STDOUT
        )
    try:
        until(lambda: "open http://" in log.read_text(), 30)
        (url,) = re.findall(r"open (http://127\.0\.0\.1:\d+/)", log.read_text())
        until(lambda: "Ctrl-C ends the demo" in log.read_text() or demo.poll() is not None, 200, every=1)
        assert "Summary" in log.read_text()
        with urllib.request.urlopen(f"{url}page/stream", timeout=5) as stream:
            updates = (json.loads(line[6:]) for line in stream if line.startswith(b"data: "))
            told = first = next(updates)
            deadline = time.monotonic() + 10  # each second what was counted a second ago
            while told["now"]["vectors"] <= 40_000 and time.monotonic() < deadline:
                told = first | next(updates)
        assert told["about"]["labels"] and told["now"]["ready"] and told["now"]["vectors"] > 40_000
        assert [swap["before"] for swap in told["swaps"]]
    finally:
        demo.send_signal(signal.SIGINT)
    assert demo.wait(20) == 0, log.read_text()[-2000:]

"""The README: each of its commands runs, and its event is a valid one."""

import json
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np

from tests.brokers import Broker
from tests.models import normal_rows
from tests.stage import Stage
from worker.publishing.cloudevents import schema
from worker.settings import variables

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
NEVER_ENDING = (["worker"], ["worker", "alerts"])


def commands() -> list[list[str]]:
    (block,) = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    return [words[2:] for words in lines if words[:2] == ["python", "-m"]]


def test_its_commands_run_in_their_order(
    stage: Callable[..., Stage], broker: Broker, rng: np.random.Generator, tmp_path: Path
) -> None:
    s = stage(OFFNORMAL_TRAINING__STEPS="100")
    names = ("pressure", "flow", "speed", "heat")
    ran = []
    for program, *arguments in commands():
        if program == "training" and "training" not in ran:
            s.send([json.dumps(dict(zip(names, row, strict=True))).encode() for row in normal_rows(4000, rng).tolist()])
        if [program, *arguments] in NEVER_ENDING:
            arguments.append("--until-end")
        if arguments[:1] == ["topics"]:
            arguments += ["--replication", "1"]
        if "--out" in arguments:
            arguments[-1] = str(tmp_path / arguments[-1])
        if "ID" in arguments:
            arguments[arguments.index("ID")] = f"{s.topics.sensors}/0/0/0"
        run = s.worker(*arguments) if program == "worker" else s.training(*arguments)
        if arguments == ["serve"]:
            run.await_log("training_scheduler_started")
            run.popen.terminate()
        # Before there is a model, check says so.
        assert run.wait(90) == (5 if arguments == ["check"] else 0), (program, arguments, run.errors)
        ran.append(program)
    assert ran.count("worker") >= 4 and ran.count("training") >= 3
    assert sum(s.committed().values()) == 4000


def test_its_other_commands_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z]+)`", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_its_event_fits_the_schema() -> None:
    (text,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    jsonschema.Draft202012Validator(schema("anomaly")).validate(json.loads(text))


def test_its_settings_are_there_with_their_defaults() -> None:
    known = dict(variables())
    rows = re.findall(r"^\| `(OFFNORMAL_\w+)`[^|]*\| `([^`]*)`", README, re.MULTILINE)
    assert len(rows) > 8
    for name, default in rows:
        value = known[name].default
        shown = {"24h": "86400.0", "1h": "3600.0", "true": "True", "none": "None", "[]": "()"}.get(default, default)
        assert str(value) == shown, name


def test_a_wheel_has_all_that_is_needed(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
    ]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as held:
        names = set(held.namelist())
        scripts = next(held.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    assert {
        "worker/publishing/schemas/anomaly.schema.json",
        "worker/publishing/schemas/incident.schema.json",
        "worker/windows/ring.py",
    } <= names
    assert {"worker/py.typed", "training/fitting/fit.py", "worker/demo/broker.py"} <= names
    assert {f"worker/page/static/{file.name}" for file in (ROOT / "worker/page/static").iterdir()} <= names
    assert not [name for name in names if name.startswith("tests")]
    assert "offnormal-worker" in scripts and "offnormal-training" in scripts

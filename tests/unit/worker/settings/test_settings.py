"""Settings: where they come from, and how a wrong one is told."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import pytest
from pydantic import ValidationError

from worker.errors import SettingsError
from worker.models import KINDS
from worker.settings import ModelSettings, Settings, describe, load, seconds, variables


def load_with(**environment: str) -> Settings:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("OFFNORMAL_")}
    with mock.patch.dict(os.environ, clean | environment, clear=True):
        return load()


def test_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "offnormal.yaml"
    file.write_text("kafka: {group: from-file, bootstrap: 'file:1'}\n")
    settings = load_with(OFFNORMAL_CONFIG=str(file), OFFNORMAL_KAFKA__GROUP="from-environment")
    assert settings.kafka.group == "from-environment"
    assert settings.kafka.bootstrap == "file:1"
    assert settings.batch.max_rows == 65536


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("OFFNORMAL_KAFAK__GROUP", "x", "did you mean OFFNORMAL_KAFKA__GROUP"),
        ("OFFNORMAL_DEVIC", "cpu", "did you mean OFFNORMAL_DEVICE"),
        ("OFFNORMAL_BATCH__MAX_ROWS", "many", "valid integer"),
        ("OFFNORMAL_BATCH__MAX_ROWS", "0", "greater than or equal to 1"),
        ("OFFNORMAL_BATCH__MAX_DELAY", "5 parsecs", "is no duration"),
        ("OFFNORMAL_INPUT__FORMAT", "avro", "OFFNORMAL_SCHEMA_REGISTRY__URL"),
        ("OFFNORMAL_INPUT__FEATURES", '["a", "a"]', "only once"),
        ("OFFNORMAL_INPUT__FEATURES", "true", "a count, or"),
        ("OFFNORMAL_KAFKA__START", "yesterday", "earliest, latest"),
        ("OFFNORMAL_DELIVERY", "maybe_once", "exactly_once"),
        ("OFFNORMAL_DETECTION__FALSE_ALARM_RATE", "2", "less than 1"),
        ("OFFNORMAL_OUTPUTS", "sores", "OUTPUTS"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(name: str, value: str, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_with(**{name: value})
    line = str(caught.value)
    assert told in line
    assert name in line or name.removeprefix("OFFNORMAL_").lower() in line
    assert "\n" not in line


@pytest.mark.parametrize("text", ["kafka: {grup: x}", "kafka: [", "- 1"])
def test_a_wrong_file_is_told(tmp_path: Path, text: str) -> None:
    file = tmp_path / "offnormal.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match="OFFNORMAL_"):
        load_with(OFFNORMAL_CONFIG=str(file))


def test_a_missing_file_is_told() -> None:
    with pytest.raises(SettingsError, match="no such file"):
        load_with(OFFNORMAL_CONFIG="/nowhere.yaml")


def test_a_password_is_in_no_text() -> None:
    secret = "hunter2-secret"
    protected = {
        "OFFNORMAL_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
        "OFFNORMAL_KAFKA__USERNAME": "u",
        "OFFNORMAL_KAFKA__PASSWORD": secret,
    }
    settings = load_with(**protected, OFFNORMAL_KAFKA__SASL_MECHANISM="PLAIN")
    assert secret not in repr(settings) + str(settings.model_dump())
    with pytest.raises(SettingsError) as caught:
        load_with(**protected)
    assert "sasl_mechanism" in str(caught.value)
    assert secret not in str(caught.value)
    with pytest.raises(SettingsError, match="by settings of their own") as caught:
        load_with(OFFNORMAL_SCHEMA_REGISTRY__URL=f"http://u:{secret}@registry:8081")
    assert secret not in str(caught.value)


def test_what_kubernetes_sets_is_no_setting() -> None:
    assert load_with(
        OFFNORMAL_PORT="tcp://10.0.0.1:80",
        OFFNORMAL_PORT_8080_TCP_ADDR="10.0.0.1",
        OFFNORMAL_SERVICE_HOST="10.0.0.1",
        OFFNORMAL_WORKER_SERVICE_PORT_HTTP="80",
    )


def test_help_shows_every_setting() -> None:
    told = describe()
    assert all(name in told for name, _ in variables())
    assert len(list(variables())) > 30


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        load_with().kafka.group = "other"  # type: ignore[misc]


@pytest.mark.parametrize(("text", "value"), [("30", 30), ("500ms", 0.5), ("24h", 86400), (1.5, 1.5), ("2 d", 172800)])
def test_durations(text: Any, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("value", ['{"password": "hunter2"', '"hunter2"', '["hunter2"]', '{"password": ["hunter2"]}'])
def test_a_section_that_is_wrong_as_a_whole_shows_nothing_of_itself(value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_with(OFFNORMAL_KAFKA=value)
    assert "OFFNORMAL_KAFKA" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_kinds_are_those_that_there_are() -> None:
    assert set(get_args(ModelSettings.model_fields["kind"].annotation)) == set(KINDS)


@pytest.mark.parametrize("program", ["worker", "training"])
def test_help_does_not_wait_for_torch(program: str) -> None:
    code = (
        f"import sys, {program}.__main__ as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.splitlines()[-1] == "False"

"""Settings, further: which source wins, which line each mistake gives, and where a secret may not show."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from worker.errors import SettingsError
from worker.settings import PREFIX, Settings, describe, load, start_time, variables

SECRET = "s3cret-hunter2"
Loader = Callable[..., Settings]


@pytest.fixture
def load_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Loader:
    """Loads from a YAML text and variables, the prefix left out; nothing else is in the environment."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)

    def loader(yaml: str | None = None, **environment: str) -> Settings:
        if yaml is not None:
            (tmp_path / "c.yaml").write_text(yaml)
            monkeypatch.setenv(PREFIX + "CONFIG", str(tmp_path / "c.yaml"))
        for name, value in environment.items():
            monkeypatch.setenv(PREFIX + name, value)
        return load()

    return loader


def refused(loader: Loader, yaml: str | None = None, **environment: str) -> str:
    with pytest.raises(SettingsError) as caught:
        loader(yaml, **environment)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_the_file_fills_what_the_environment_leaves(load_with: Loader) -> None:
    settings = load_with("batch: {max_rows: 7, max_delay: 20ms}\ndevice: cuda:1\n", BATCH__MAX_ROWS="9", DEVICE="cpu")
    assert (settings.batch.max_rows, settings.batch.max_delay, settings.device) == (9, 0.02, "cpu")
    assert settings.batch.commit_interval == Settings().batch.commit_interval


def test_an_empty_file_changes_nothing(load_with: Loader) -> None:
    assert load_with("").model_dump() == Settings().model_dump()


def test_an_empty_variable_counts_as_unset(load_with: Loader) -> None:
    assert load_with("kafka: {group: g}", KAFKA__GROUP="").kafka.group == "g"


def test_a_whole_section_may_be_json(load_with: Loader) -> None:
    settings = load_with(BATCH='{"max_rows": 3}', BATCH__MAX_DELAY="1s")
    assert (settings.batch.max_rows, settings.batch.max_delay) == (3, 1.0)


@pytest.mark.parametrize(
    ("given", "features"),
    [
        ("4", 4),
        ('["a", "b"]', ("a", "b")),
        ('["temp °C"]', ("temp °C",)),
        ("a,b", ("a", "b")),
        (" temp °C , x1", ("temp °C", "x1")),
    ],
)
def test_features_are_a_count_or_names(load_with: Loader, given: str, features: int | tuple[str, ...]) -> None:
    assert load_with(INPUT__FEATURES=given).input.features == features


@pytest.mark.parametrize("given", ["scores,latents", '["scores", "latents"]', " scores , latents ,"])
def test_a_list_is_names_with_commas_or_json(load_with: Loader, given: str) -> None:
    assert load_with(OUTPUTS=given).outputs == ("scores", "latents")


def test_a_wrong_member_of_a_list_is_told_with_the_variable(load_with: Loader) -> None:
    line = refused(load_with, OUTPUTS="scores,sores")
    assert line.startswith("OFFNORMAL_OUTPUTS: ") and "'sores'" in line


@pytest.mark.parametrize("given", ["[a,b]", "a,,a", ",", "0", "-1", "4.5", "[]", "[1, 2]", '["a", "a"]', '{"a": 1}'])
def test_wrong_features_are_one_line_with_the_variable(load_with: Loader, given: str) -> None:
    line = refused(load_with, INPUT__FEATURES=given)
    assert line.startswith("OFFNORMAL_INPUT__FEATURES") and "\n" not in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BATCH__MAX_ROWS", "4k"),
        ("BATCH__MAX_DELAY", "5x"),
        ("BATCH__MAX_DELAY", "-1s"),
        ("BATCH__MAX_DELAY", "ms"),
        ("BATCH__MAX_DELAY", "11.0"),
        ("KAFKA__SESSION_TIMEOUT", "5.0"),
        ("KAFKA__STARTUP_TIMEOUT", "1 week"),
        ("KAFKA__START", "-1fortnight"),
        ("KAFKA__START", "2026-13-01"),
        ("KAFKA__SECURITY_PROTOCOL", "TLS"),
        ("TOPICS__SENSORS", "no/slash"),
        ("MODEL__NAME", "a/b"),
        ("MODEL__KIND", "isolation-forest"),
        ("MODEL__WINDOW", "0"),
        ("INPUT__FORMAT", "protobuf"),
        ("INPUT__FORMAT", "xml"),
        ("INPUT__STRICT", "perhaps"),
        ("DETECTION__FALSE_ALARM_RATE", "0"),
        ("DETECTION__FALSE_ALARM_RATE", "nan"),
        ("DETECTION__MAX_MISSING", "1"),
        ("HTTP__PORT", "65536"),
        ("DEVICE", "gpu"),
        ("THREADS", "0"),
        ("LOG__LEVEL", "INFO!"),
    ],
)
def test_a_wrong_value_is_one_line_with_variable_and_value(load_with: Loader, name: str, value: str) -> None:
    line = refused(load_with, **{name: value})
    assert line.startswith(PREFIX + name) and value in line and "\n" not in line


@pytest.mark.parametrize("name", [name.removeprefix(PREFIX) for name, _ in variables()])
def test_a_misspelling_of_any_variable_is_refused_with_a_suggestion(load_with: Loader, name: str) -> None:
    line = refused(load_with, **{name + "X": "1"})
    assert f"{PREFIX}{name}X: no such setting; did you mean {PREFIX}" in line


@pytest.mark.parametrize(
    ("yaml", "name"),
    [
        ("kafka: {grup: x}", "OFFNORMAL_KAFKA__GRUP"),
        ("kafak: {group: x}", "OFFNORMAL_KAFAK"),
        ("batch: {max_rows: many}", "OFFNORMAL_BATCH__MAX_ROWS"),
        ("batch: 5", "OFFNORMAL_BATCH"),
        ("input: {format: avro}", "OFFNORMAL_INPUT__FORMAT"),
        ("kafka: {group: [a", "OFFNORMAL_CONFIG"),
        ("\tkafka: x", "OFFNORMAL_CONFIG"),
    ],
)
def test_a_wrong_file_is_one_line_with_the_setting(load_with: Loader, yaml: str, name: str) -> None:
    line = refused(load_with, yaml)
    assert line.startswith(name) and "\n" not in line


def test_a_file_that_is_not_text_is_told(load_with: Loader, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"kafka: \xff\xfe")
    assert refused(load_with, CONFIG=str(tmp_path / "binary")).startswith("OFFNORMAL_CONFIG")


def test_a_folder_is_no_config_file(load_with: Loader, tmp_path: Path) -> None:
    assert str(tmp_path) in refused(load_with, CONFIG=str(tmp_path))


@pytest.mark.parametrize("missing", ["SASL_MECHANISM", "USERNAME", "PASSWORD"])
def test_sasl_without_one_of_its_three_parts_is_told(load_with: Loader, missing: str) -> None:
    parts = {"SASL_MECHANISM": "PLAIN", "USERNAME": "u", "PASSWORD": SECRET}
    del parts[missing]
    line = refused(load_with, KAFKA__SECURITY_PROTOCOL="SASL_SSL", **{f"KAFKA__{k}": v for k, v in parts.items()})
    assert line.startswith("OFFNORMAL_KAFKA") and missing.lower() in line and SECRET not in line


def test_a_certificate_without_its_key_is_told(load_with: Loader) -> None:
    assert "key_file" in refused(load_with, KAFKA__CERT_FILE="/c.pem")


@pytest.mark.parametrize("password", ["plain", '"quoted"', "null", "12345", "[1]", '{"a"', "a__b", "true", "#x: y"])
def test_a_password_arrives_as_it_was_given(load_with: Loader, password: str) -> None:
    secret = load_with(KAFKA__PASSWORD=password).kafka.password
    assert secret is not None and secret.get_secret_value() == password


@pytest.mark.parametrize(
    ("yaml", "environment"),
    [
        (f"kafka: {{password: {SECRET}, grup: x}}", {}),
        (f"kafka: {{passwrod: {SECRET}}}", {}),
        (f"kafka: {{password: [{SECRET}]}}", {}),
        (f"kafka: {{password: {{a: {SECRET}}}}}", {}),
        (f"kafka:\n  password: {SECRET}: x\n", {}),
        (f"password: {SECRET}", {}),
        (None, {"KAFKA__PASSWROD": SECRET}),
        (None, {"KAFKA": f'{{"password": "{SECRET}", "grup": "x"}}'}),
        (None, {"KAFKA__PASSWORD": SECRET, "KAFKA__GROUP": "a/b"}),
    ],
)
def test_no_error_line_shows_the_password(load_with: Loader, yaml: str | None, environment: dict[str, str]) -> None:
    assert SECRET not in refused(load_with, yaml, **environment)


@pytest.mark.parametrize("show", [repr, str, lambda s: repr(s.kafka), lambda s: s.model_dump_json()])
def test_no_text_of_the_settings_shows_the_password(load_with: Loader, show: Callable[[Settings], str]) -> None:
    assert SECRET not in show(load_with(KAFKA__PASSWORD=SECRET))


@pytest.mark.parametrize(
    "name",
    [
        "PORT",
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_HTTP",
        "PORT_8080_TCP",
        "PORT_8080_TCP_PROTO",
        "WORKER_PORT_9092_TCP_ADDR",
        "BROKER_0_SERVICE_HOST",
    ],
)
def test_a_service_link_is_overlooked(load_with: Loader, name: str) -> None:
    assert load_with(**{name: "tcp://10.0.0.1:8080"}).model_dump() == Settings().model_dump()


def test_a_setting_is_not_mistaken_for_a_service_link(load_with: Loader) -> None:
    assert load_with(HTTP__PORT="0").http.port == 0
    assert "HTTP__PORTT" in refused(load_with, HTTP__PORTT="0")


def test_help_shows_the_default_that_counts(load_with: Loader) -> None:
    shown = {line.split()[0]: line for line in describe().splitlines()[1:]}
    assert set(shown) == {name for name, _ in variables()}
    assert " 0.0001 " in shown["OFFNORMAL_DETECTION__FALSE_ALARM_RATE"]
    assert " none " in shown["OFFNORMAL_KAFKA__PASSWORD"]


@pytest.mark.parametrize(
    "section", [*(n for n, f in Settings.model_fields.items() if isinstance(f.default, BaseModel))]
)
def test_every_section_is_frozen(section: str) -> None:
    part = getattr(Settings(), section)
    with pytest.raises(ValidationError):
        setattr(part, next(iter(type(part).model_fields)), 1)


@pytest.mark.parametrize(
    ("start", "moment"),
    [("-1h", 96_400), ("-0", 100_000), ("1970-01-01T01:00Z", 3600), ("1970-01-01", 0), ("1970-01-01T01:00+01:00", 0)],
)
def test_a_start_is_a_moment(start: str, moment: float) -> None:
    assert start_time(start, now=100_000) == moment


def test_a_secret_may_lie_in_a_file(load_with: Loader, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(SECRET + "\n")
    found = load_with(KAFKA__PASSWORD_FILE=str(tmp_path / "password")).kafka
    assert found.password is not None and found.password.get_secret_value() == SECRET
    (tmp_path / "key").write_text("a signing key of some length")
    key = load_with(MODEL__SIGNING_KEY_FILE=str(tmp_path / "key")).model.signing_key
    assert key is not None and key.get_secret_value() == "a signing key of some length"


def test_secret_files_that_are_wrong(load_with: Loader, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "short").write_text("hunter2")
    both = refused(load_with, KAFKA__PASSWORD=SECRET, KAFKA__PASSWORD_FILE=str(tmp_path / "empty"))
    assert "only one" in both and SECRET not in both
    assert "No such file" in refused(load_with, KAFKA__PASSWORD="", KAFKA__PASSWORD_FILE=str(tmp_path / "none"))
    assert "empty" in refused(load_with, KAFKA__PASSWORD_FILE=str(tmp_path / "empty"))
    short = refused(load_with, KAFKA__PASSWORD_FILE="", MODEL__SIGNING_KEY_FILE=str(tmp_path / "short"))
    assert "OFFNORMAL_MODEL__SIGNING_KEY" in short and "hunter2" not in short

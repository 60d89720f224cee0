"""All settings: one frozen tree, read from OFFNORMAL_ variables over a YAML file over defaults.

`load()` is the only way in. It turns whatever is wrong into one line that names the setting.
"""

import difflib
import math
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from ipaddress import ip_address
from typing import Annotated, Any, Literal, get_args

from cronsim import CronSim, CronSimError
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError as SourceError,
    YamlConfigSettingsSource,
)

from worker.errors import SettingsError

PREFIX = "OFFNORMAL_"
SECRET_FILES = ("password_file", "signing_key_file", "token_file")
CONFIG_FILE = PREFIX + "CONFIG"

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")


def seconds(value: object) -> float:
    """`30`, `"30"`, `"500ms"`, `"24h"` -> seconds. Raises ValueError on anything else, negatives included."""
    if type(value) in (int, float) and math.isfinite(value) and value >= 0:  # type: ignore[operator,arg-type]
        return float(value)  # type: ignore[arg-type]
    found = _DURATION.fullmatch(str(value).strip())
    if not found:
        raise ValueError(f"{value!r} is no duration: write seconds, or a number with ms, s, m, h or d")
    return float(found[1]) * _UNITS[found[2] or "s"]


def _start(value: object) -> object:
    text = str(value).strip()
    if text not in ("earliest", "latest"):
        start_time(text, now=0.0)
    return text


def start_time(start: str, now: float) -> float:
    """A time or `-1h`, as seconds since the epoch; `now` in the same unit. Raises ValueError."""
    if start.startswith("-"):
        return now - seconds(start[1:])
    try:
        moment = datetime.fromisoformat(start)
    except ValueError:
        raise ValueError(f"{start!r}: write earliest, latest, a time such as 2026-01-31T08:00Z, or -1h") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _cron(value: str) -> str:
    try:
        CronSim(value, datetime.now(UTC))
    except CronSimError as error:
        raise ValueError(
            f"{error}: a cron expression has minute, hour, day, month, weekday, such as 0 3 * * *"
        ) from None
    return value


_PACKAGES = {"arrow": "pyarrow", "avro": "fastavro", "otel": "opentelemetry"}  # extra -> what it brings


def lacks_package(extra: str) -> str | None:
    """What to do where a format, or whatever else is an extra, needs a package that is not installed."""
    package = _PACKAGES.get(extra)
    if package is None or find_spec(package) is not None:
        return None
    return f"{extra} needs {package}: pip install 'offnormal[{extra}]'"


def _with_its_package(extra: str) -> str:
    if (lacks := lacks_package(extra)) is not None:
        raise ValueError(lacks)
    return extra


def _url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s@]+", value):
        raise ValueError("write http://host:port or https://host:port, user and password by settings of their own")
    return value


Duration = Annotated[float, BeforeValidator(seconds)]
Topic = Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$")]
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,100}$")]


class Section(BaseModel):
    """A secret may lie in a file (a mounted Kubernetes secret), which `<its name>_file` names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _secrets_from_files(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        found = dict(given)
        for name in cls.model_fields:
            file = given.get(f"{name}_file")
            if file is None or f"{name}_file" not in SECRET_FILES:
                continue
            if given.get(name) is not None:
                raise ValueError(f"{name} and {name}_file: only one of them")
            try:
                with open(str(file), encoding="utf-8") as opened:
                    found[name] = opened.read().strip("\r\n")
            except (OSError, ValueError) as error:
                raise ValueError(f"{name}_file: {getattr(error, 'strerror', error)}: {file}") from None
            if not found[name]:
                raise ValueError(f"{name}_file: {file} is empty")
        return found


class KafkaSettings(Section):
    bootstrap: str = Field("localhost:9092", min_length=1, description="brokers, host:port, separated by commas")
    group: Name = Field("offnormal", description="consumer group")
    instance_id: Name | None = Field(None, description="static membership: a name that is this worker's alone")
    start: Annotated[str, BeforeValidator(_start)] = Field(
        "earliest", description="where a group without offsets begins: earliest, latest, a time, -1h"
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="as Kafka names it"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, description="as Kafka names it"
    )
    username: str | None = Field(None, description="SASL user")
    password: SecretStr | None = Field(None, description="SASL password")
    password_file: str | None = Field(None, description="a file that holds the SASL password")
    ca_file: str | None = Field(None, description="PEM file of the authority that signed the brokers' certificates")
    cert_file: str | None = Field(None, description="PEM file of the client certificate (mutual TLS)")
    key_file: str | None = Field(None, description="PEM file of the client key")
    client: Literal["columnar", "public"] = Field(
        "columnar", description="columnar reads and writes record batches itself; public is kafka-python's API, slowly"
    )
    fetch_bytes: int = Field(
        8 * 2**20, ge=2**16, le=2**30, description="fetched ahead at most, in one answer; a larger record still comes"
    )
    unpacked_bytes: int = Field(
        64 * 2**20, ge=2**20, le=2**31, description="a compressed batch that unpacks to more becomes a dead letter"
    )
    startup_timeout: Duration = Field(60.0, description="how long Kafka may be away at start before exit 4")
    session_timeout: Duration = Field(
        10.0, ge=6, le=300, description="how long a silent worker keeps its partitions; a transaction likewise"
    )

    @property
    def commit_timeout(self) -> float:
        """Seconds that one commit may take: short of the session's end, and of SIGTERM's ten seconds."""
        return min(self.session_timeout / 2, 5.0)

    @model_validator(mode="after")
    def _whole(self) -> "KafkaSettings":
        if self.security_protocol.startswith("SASL") and not (self.sasl_mechanism and self.username and self.password):
            raise ValueError(f"{self.security_protocol} needs sasl_mechanism, username and password")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file are needed both or neither")
        return self


class TopicSettings(Section):
    sensors: Topic = Field("offnormal.sensors", description="in: sensor vectors")
    anomalies: Topic = Field("offnormal.anomalies", description="out: anomaly events")
    dead_letters: Topic = Field("offnormal.dead-letters", description="out: records that do not parse")
    incidents: Topic = Field("offnormal.incidents", description="out: incidents, each entity's last one (compacted)")
    models: Topic = Field("offnormal.models", description="the registry (compacted)")
    drift: Topic = Field("offnormal.drift", description="out: drift, sensors at fault, models taken back")
    training_requests: Topic = Field("offnormal.training-requests", description="out: what `training serve` acts on")
    shadow: Topic = Field("offnormal.shadow", description="out: what a challenger in the champion's shadow names")
    labels: Topic = Field("offnormal.labels", description="in: what people say of events and incidents (compacted)")
    scores: Topic = Field("offnormal.scores", description="out, if OFFNORMAL_OUTPUTS names it: every vector's score")
    latents: Topic = Field("offnormal.latents", description="out, if OFFNORMAL_OUTPUTS names it: every vector's code")
    reconstructions: Topic = Field(
        "offnormal.reconstructions", description="out, if OFFNORMAL_OUTPUTS names it: every vector, cleaned"
    )


class InputSettings(Section):
    format: Literal["json", "f32", "avro", "arrow"] = Field(
        "json", description="of the vectors; a content-type header overrides it for a record"
    )
    entity_field: str | None = Field(None, description="JSON key that holds the entity; else the record's key")
    time_field: str | None = Field(
        None, description="JSON key that holds the event time; else the time header, else the record's timestamp"
    )
    time_header: str | None = Field(None, description="Kafka header that holds the event time, as the field would")
    step: Annotated[float, BeforeValidator(seconds), Field(ge=0.001)] | None = Field(
        None, description="time between two vectors of an entity: steps without one are missing in its window"
    )
    max_gap: Duration = Field(3600.0, gt=0, description="an entity silent for longer starts its window anew")
    reorder: int = Field(
        4, ge=0, le=1000, description="a vector may come so many vectors of its entity late and is put in its place"
    )
    strict: bool = Field(False, description="a JSON key that is no feature makes a dead letter")
    features: Annotated[int, Field(gt=0)] | tuple[str, ...] | None = Field(
        None, description="a count or a JSON list of names; only training asks, where the data do not tell"
    )

    @field_validator("format")
    @classmethod
    def _served(cls, value: str) -> str:
        return _with_its_package(value)

    @field_validator("features", mode="before")
    @classmethod
    def _no_flag(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("a count or a JSON list of names")
        return value

    @field_validator("features")
    @classmethod
    def _named_once(cls, value: int | tuple[str, ...] | None) -> int | tuple[str, ...] | None:
        if isinstance(value, tuple) and (not value or len(set(value)) < len(value)):
            raise ValueError("features must be names, each once")
        return value


class SchemaRegistrySettings(Section):
    """Whoever sends and reads `avro` needs one."""

    url: Annotated[str, AfterValidator(_url)] | None = Field(
        None, description="schema registry of Confluent's API, for avro: http://registry:8081"
    )
    username: str | None = Field(None, description="its user, or API key")
    password: SecretStr | None = Field(None, description="its password, or API secret")
    password_file: str | None = Field(None, description="a file that holds the registry's password")
    ca_file: str | None = Field(None, description="PEM file of the authority that signed its certificate")
    timeout: Duration = Field(5.0, gt=0, le=60, description="how long one request may take")


class ModelSettings(Section):
    name: Name = Field("default", description="the model in the registry that is served and trained")
    kind: Literal["denoising", "stacked", "sparse", "variational"] = Field(
        "denoising", description="the autoencoder's kind"
    )
    window: int = Field(1, ge=1, le=1024, description="vectors of an entity that are looked at together")
    scaler: Literal["fleet", "entity"] = Field(
        "fleet", description="units of the readings: one scaler, or one for each entity that training saw"
    )
    routes: dict[str, Name] = Field(
        {}, description='other models by key: a JSON object, pattern to model name: {"press-*": "presses"}'
    )
    keep: int = Field(10, ge=1, description="artefacts kept in the registry")
    shadow_share: float = Field(
        0,
        ge=0,
        le=1,
        description="share of the vectors that a challenger also scores before it is promoted; 0: none is",
    )
    probation: Duration = Field(
        3600.0, description="for so long after a promotion the worker may take it back by itself; 0: never"
    )
    signing_key: SecretStr | None = Field(
        None, min_length=16, description="signs the artefacts that training makes; workers serve only these then"
    )
    signing_key_file: str | None = Field(None, description="a file that holds the signing key")

    @property
    def names(self) -> list[str]:
        """All models that a worker serves; that of the records without a route first."""
        return list(dict.fromkeys([self.name, *self.routes.values()]))


class EntitySettings(Section):
    max: int = Field(100_000, ge=1, le=10_000_000, description="entities whose windows are held; the idlest make room")
    idle: Duration = Field(86400.0, gt=0, description="an entity without a vector for so long is forgotten")
    replay: int = Field(
        100_000, ge=0, description="records of a partition that are read back at most to fill windows after a start"
    )


class DetectionSettings(Section):
    false_alarm_rate: float = Field(
        1e-4, gt=0, lt=1, description="budget: share of normal vectors that may become events, warnings included"
    )
    alerts_per_day: float | None = Field(
        None, gt=0, description="budget in events a day instead, at the rate of vectors that training saw"
    )
    top_features: int = Field(5, ge=1, description="features named in an event")
    max_missing: float = Field(0.5, ge=0, lt=1, description="share of readings that may be missing; beyond: not scored")

    def budget(self, vectors_per_day: float) -> float:
        """The share of normal vectors that may become events."""
        if self.alerts_per_day is None or vectors_per_day <= 0:
            return self.false_alarm_rate
        return min(max(self.alerts_per_day / vectors_per_day, 1e-12), 0.5)


class IncidentSettings(Section):
    open_after: int = Field(3, ge=1, description="an incident opens when so many vectors of an entity are over budget")
    out_of: int = Field(10, ge=1, le=1000, description="... of its last so many")
    extreme: float = Field(
        0.001, ge=0, le=1, description="or when one vector has a p-value of at most this share of the budget"
    )
    quiet: Duration = Field(600.0, gt=0, description="it closes when an entity was within budget for so long")
    cooldown: Duration = Field(1800.0, description="at most one notification of an entity within this time")
    related: Duration = Field(60.0, description="incidents of several entities that open within this time are related")

    @model_validator(mode="after")
    def _possible(self) -> "IncidentSettings":
        if self.open_after > self.out_of:
            raise ValueError(f"open_after {self.open_after} of out_of {self.out_of} vectors is impossible")
        return self


class DriftSettings(Section):
    enabled: bool = Field(True, description="drift detection, and the training requests it makes")
    entities: int = Field(100, ge=0, description="entities that are also looked at each by itself")


class BatchSettings(Section):
    max_rows: int = Field(
        65536, ge=1, le=1_000_000, description="records of a batch; half of fetch_bytes make one as well"
    )
    max_delay: Duration = Field(0.002, le=10, description="how long a batch waits for more rows")
    commit_interval: Duration = Field(
        0.5, le=10, description="how long offsets, and events under a backlog, wait for their commit"
    )


class TrainingSettings(Section):
    lookback: Duration = Field(
        86400.0, gt=0, description="how far back from the newest record the training window reaches"
    )
    max_rows: int = Field(1_000_000, ge=50, description="rows at most, sampled evenly over the window")
    min_rows: int = Field(1000, ge=50, description="rows at least; with fewer, exit 5")
    holdout: float = Field(
        0.2, gt=0.02, lt=0.9, description="share of the rows held out to calibrate, spread over the window"
    )
    steps: int = Field(3000, ge=30, description="steps of the optimizer, of 256 rows each")
    schedule: Annotated[str, AfterValidator(_cron)] | None = Field(
        None, description="when `training serve` trains: a cron expression (UTC); else only when asked to"
    )
    cooldown: Duration = Field(3600.0, description="least time between two trainings of a model that were asked for")
    regime_share: float = Field(
        0.4, gt=0, le=1, description="share of the window from which on a new way of running is learned"
    )
    seed: int = Field(0, ge=0, description="the same seed gives the same model on the CPU")
    reports: str | None = Field(None, description="a directory for a report of each training, as a page")


class HttpSettings(Section):
    host: str = Field("0.0.0.0", description="address of probes, metrics and the page")
    port: int = Field(8080, ge=0, le=65535, description="port of probes, metrics and the page; 0 switches them off")
    page: bool = Field(True, description="the page for people, at /")
    token: SecretStr | None = Field(
        None, min_length=16, description="who looks at the page has to know it; probes and metrics stay open"
    )
    token_file: str | None = Field(None, description="a file that holds the token")
    labels: bool = Field(False, description="who looks at the page may confirm and dismiss incidents")

    @property
    def is_local(self) -> bool:
        """Whether nobody but this machine reaches the port."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def takes_labels(self) -> bool:
        return bool(self.port and self.page and self.labels)

    @model_validator(mode="after")
    def _guarded(self) -> "HttpSettings":
        if self.labels and self.token is None and not self.is_local:
            raise ValueError(
                "labels without a token: whoever reaches the port could say what training is to learn; set token or"
                " token_file, or host to 127.0.0.1"
            )
        return self


class LogSettings(Section):
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else JSON")


class Settings(BaseSettings):
    """The whole tree. Frozen; build it by `load()`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", frozen=True, extra="forbid", env_ignore_empty=True
    )

    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    input: InputSettings = InputSettings()
    schema_registry: SchemaRegistrySettings = SchemaRegistrySettings()
    model: ModelSettings = ModelSettings()
    entities: EntitySettings = EntitySettings()
    detection: DetectionSettings = DetectionSettings()
    incidents: IncidentSettings = IncidentSettings()
    drift: DriftSettings = DriftSettings()
    batch: BatchSettings = BatchSettings()
    training: TrainingSettings = TrainingSettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()
    delivery: Literal["exactly_once", "at_least_once"] = Field(
        "exactly_once",
        description="what a fault may repeat: nothing, or outputs with equal ids; see docs/guarantees.md",
    )
    outputs: tuple[Literal["scores", "latents", "reconstructions"], ...] = Field(
        (), description="more output topics, a JSON list of scores, latents, reconstructions"
    )
    event_format: Literal["json", "avro"] = Field(
        "json", description="of anomaly events: json (CloudEvents) or avro, whose schema the registry gets"
    )
    output_format: Literal["input", "json", "f32", "avro", "arrow"] = Field(
        "input", description="of scores, latents, reconstructions; input: as the vectors come"
    )
    traces: bool = Field(
        False, description="spans by OpenTelemetry, one for each batch; OTEL_EXPORTER_OTLP_ENDPOINT says where they go"
    )
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = Field(
        "auto", description="where the model lives: auto, cpu, cuda, cuda:1"
    )
    threads: int = Field(1, ge=1, le=256, description="CPU threads of the model")

    @field_validator("event_format", "output_format")
    @classmethod
    def _served(cls, value: str) -> str:
        return _with_its_package(value)

    @field_validator("traces")
    @classmethod
    def _traceable(cls, value: bool) -> bool:
        if value:
            _with_its_package("otel")
        return value

    @model_validator(mode="after")
    def _registry_named(self) -> "Settings":
        for name, value in (
            ("INPUT__FORMAT", self.input.format),
            ("EVENT_FORMAT", self.event_format),
            ("OUTPUT_FORMAT", self.output_format),
        ):
            if value == "avro" and self.schema_registry.url is None:
                raise ValueError(f"{PREFIX}{name}: avro needs {PREFIX}SCHEMA_REGISTRY__URL")
        return self

    @property
    def vector_format(self) -> str:
        """The format of scores, latents, reconstructions."""
        return self.input.format if self.output_format == "input" else self.output_format

    @property
    def avro_topics(self) -> dict[str, Literal["anomaly", "rows"]]:
        """The topics that are written as Avro, and by which schema."""
        found: dict[str, Literal["anomaly", "rows"]] = {}
        if self.event_format == "avro":
            found[self.topics.anomalies] = "anomaly"
        if self.vector_format == "avro":
            found.update({getattr(self.topics, output): "rows" for output in self.outputs})
        return found

    @property
    def source(self) -> str:
        """Who publishes: the consumer group."""
        return f"urn:offnormal:{self.kafka.group}"

    @property
    def written(self) -> list[str]:
        """The topics that a worker writes to."""
        topics = self.topics
        always = [topics.anomalies, topics.incidents, topics.dead_letters]
        if self.drift.enabled:
            always += [topics.drift, topics.training_requests]
        if self.model.probation or self.model.shadow_share:  # a worker then may change the champion, and says so
            always += [topics.models, topics.drift]
        if self.model.shadow_share:
            always.append(topics.shadow)
        if self.http.takes_labels:
            always.append(topics.labels)
        return list(dict.fromkeys([*always, *(getattr(topics, output) for output in self.outputs)]))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        yaml = YamlConfigSettingsSource(settings_cls, yaml_file=os.environ.get(CONFIG_FILE))
        return init_settings, env_settings, yaml


def variables(model: type[BaseModel] = Settings, prefix: str = PREFIX) -> Iterator[tuple[str, FieldInfo]]:
    """Each setting's environment name and field, depth first."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from variables(kind, f"{prefix}{name.upper()}__")
        else:
            yield prefix + name.upper(), field


def describe() -> str:
    """The table of all settings that `--help` shows."""
    lines = ["settings (environment over the YAML file that OFFNORMAL_CONFIG names over defaults):"]
    for name, field in variables():
        default = field.default
        shown = "none" if default is None else f"{default:g}" if isinstance(default, float) else str(default)
        choices = [str(c) for c in get_args(field.annotation) if isinstance(c, str)]
        told = f"{field.description} [{', '.join(choices)}]" if len(choices) > 2 else field.description
        lines.append(f"  {name:<38} {shown:<24} {told}")
    return "\n".join(lines)


def load(**overrides: Any) -> Settings:
    """Reads the settings. Raises SettingsError with one line that names what is wrong."""
    _refuse_unknown(os.environ)
    file = os.environ.get(CONFIG_FILE)
    if file and not os.path.isfile(file):
        raise SettingsError(f"{CONFIG_FILE}: no such file: {file}; name a YAML file, or unset it")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError("; ".join(_readable(e) for e in error.errors(include_url=False))) from None
    except SourceError as error:
        raise SettingsError(_unparseable(str(error))) from None
    except Exception as error:  # the YAML reader has its own errors
        raise SettingsError(f"{CONFIG_FILE}: {' '.join(str(error).split())}") from None


def _readable(error: Any) -> str:
    known = dict(variables())
    parts = [str(part).upper() for part in error["loc"]]
    name = PREFIX + "__".join(parts)
    while name not in known and len(parts) > 2:  # pydantic adds the branch of a union to the place
        parts.pop()
        name = PREFIX + "__".join(parts)
    message = error["msg"].removeprefix("Value error, ")
    if not parts:  # several settings do not go together: the message names them
        return str(message)
    if error["type"] == "extra_forbidden":
        return f"{name}: no such setting{_suggestion(name)}"
    # A section given as a whole may hold a password: only a single value that is no secret is shown.
    value = error.get("input")
    shown = name in known and not _SECRET.search(name) and isinstance(value, str | int | float)
    return f"{name}: {message}" + (f" (got {value!r})" if shown else "")


_SECRET = re.compile("PASSWORD|KEY|TOKEN|URL")  # of a URL it may hold a password


def _unparseable(message: str) -> str:
    """A value that should be JSON and is not: pydantic-settings names the field, not the variable."""
    field = re.search(r'field "(\w+)"', message)
    name = field[1].upper() if field else ""
    guilty = [n for n, _ in variables() if n in os.environ and n.removeprefix(PREFIX).split("__")[-1] == name]
    return f'{guilty[0] if guilty else PREFIX + name}: not valid JSON, such as \'["a", "b"]\' or \'{{"a": "b"}}\''


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name, [n for n, _ in variables()], n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else "; `python -m worker --help-settings` shows all that there are"


# What Kubernetes sets in every pod when a service is called "offnormal": no settings of ours.
_SERVICE_LINK = re.compile(
    r"OFFNORMAL(_[A-Z0-9_]+?)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)


def _refuse_unknown(environ: Any) -> None:
    """pydantic-settings overlooks a misspelt variable; a worker that runs with a default instead is worse."""
    known = {name for name, _ in variables()} | {CONFIG_FILE}
    for name in environ:
        if not name.startswith(PREFIX) or name in known or name.startswith(PREFIX + "TEST_"):
            continue
        if "__" not in name and _SERVICE_LINK.fullmatch(name):
            continue
        if name.removeprefix(PREFIX).lower() in Settings.model_fields:  # a whole section as JSON
            continue
        raise SettingsError(f"{name}: no such setting{_suggestion(name)}")

"""The sections of the settings, each a frozen model with a description of every field.

The section `input` is in input_section.py.
"""

import re
from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    model_validator,
)
from pydantic_settings import NoDecode

from worker.settings.fields import (
    Duration,
    HostName,
    Key,
    Name,
    Topic,
    Topics,
    _cron,
    _start,
    _url,
    listed,
)
from worker.settings.section import Section


class KafkaSettings(Section):
    """The connection to Kafka."""

    bootstrap: str = Field("localhost:9092", min_length=1, description="brokers, host:port, separated by commas")
    group: Name = Field("offnormal", description="consumer group")
    instance_id: Name | None = Field(None, description="static membership: a name that is this worker's alone")
    start: Annotated[str, BeforeValidator(_start)] = Field(
        "earliest",
        description="where a group without committed offsets begins: earliest, latest, a time, or an age such as -1h",
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="security protocol of the brokers' listener"
    )
    sasl_mechanism: (
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "AWS_MSK_IAM", "GSSAPI"] | None
    ) = Field(None, description="SASL mechanism, required with SASL_PLAINTEXT and SASL_SSL")
    username: str | None = Field(None, description="SASL user; with OAUTHBEARER the client id")
    password: SecretStr | None = Field(None, description="SASL password; with OAUTHBEARER the client secret")
    password_file: str | None = Field(None, description="a file that holds the SASL password")
    oauth_token_url: Annotated[str, AfterValidator(_url)] | None = Field(
        None, description="with OAUTHBEARER: URL of the identity provider that gives tokens for client credentials"
    )
    oauth_scope: str | None = Field(None, description="with OAUTHBEARER: scope that is asked for")
    oauth_ca_file: str | None = Field(
        None, description="PEM file of the authority that signed the identity provider's certificate"
    )
    oauth_token_file: str | None = Field(
        None, description="with OAUTHBEARER: a file that holds the token, renewed by somebody else, instead of a URL"
    )
    oauth_extensions: dict[str, str] = Field(
        {}, description='with OAUTHBEARER: SASL extensions, a JSON object: {"logicalCluster": "lkc-1"}'
    )
    kerberos_service: Name = Field("kafka", description="with GSSAPI: the first part of the brokers' principal")
    ca_file: str | None = Field(None, description="PEM file of the authority that signed the brokers' certificates")
    cert_file: str | None = Field(None, description="PEM file of the client certificate (mutual TLS)")
    key_file: str | None = Field(None, description="PEM file of the client key")
    client: Literal["columnar", "public"] = Field(
        "columnar",
        description="columnar: fast, reads and writes record batches itself; public: kafka-python's own API, slower",
    )
    fetch_bytes: int = Field(
        8 * 2**20, ge=2**16, le=2**30, description="maximum bytes of one fetch; a single larger record is still fetched"
    )
    unpacked_bytes: int = Field(
        64 * 2**20,
        ge=2**20,
        le=2**31,
        description="maximum that a compressed batch may unpack to; a larger one becomes a dead letter",
    )
    startup_timeout: Duration = Field(
        60.0, description="how long to wait for Kafka at start before giving up (exit code 4)"
    )
    session_timeout: Duration = Field(
        10.0,
        ge=6,
        le=300,
        description="how long a worker that does not answer keeps its partitions; also the timeout of transactions",
    )

    @property
    def commit_timeout(self) -> float:
        """Return how many seconds one commit may take: less than the session, and than SIGTERM's ten seconds."""
        return min(self.session_timeout / 2, 5.0)

    @model_validator(mode="after")
    def _whole(self) -> "KafkaSettings":
        has_login = bool(self.username and self.password)
        if self.sasl_mechanism == "AWS_MSK_IAM":
            if self.security_protocol != "SASL_SSL":
                raise ValueError("AWS_MSK_IAM needs security_protocol SASL_SSL")
        elif self.sasl_mechanism == "GSSAPI":
            if not self.security_protocol.startswith("SASL"):
                raise ValueError("GSSAPI needs security_protocol SASL_SSL or SASL_PLAINTEXT")
        elif self.sasl_mechanism == "OAUTHBEARER":
            if bool(self.oauth_token_url) == bool(self.oauth_token_file):
                raise ValueError("OAUTHBEARER needs oauth_token_url or oauth_token_file, and not both")
            if self.oauth_token_url and not has_login:
                raise ValueError("oauth_token_url needs username (the client id) and password (the client secret)")
        elif self.security_protocol.startswith("SASL") and not (self.sasl_mechanism and has_login):
            raise ValueError(f"{self.security_protocol} needs sasl_mechanism, username and password")
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file are needed both or neither")
        return self


class TopicSettings(Section):
    """The names of the topics."""

    sensors: Topics = Field(
        "offnormal.sensors",
        description="in: sensor vectors; a topic, several such as a,b, or a regular expression such as ^plant-.*",
    )
    anomalies: Topic = Field("offnormal.anomalies", description="out: anomaly events")
    dead_letters: Topic = Field("offnormal.dead-letters", description="out: records that do not parse")
    incidents: Topic = Field("offnormal.incidents", description="out: incidents, each entity's last one (compacted)")
    models: Topic = Field("offnormal.models", description="the registry (compacted)")
    drift: Topic = Field("offnormal.drift", description="out: drift, sensors at fault, models taken back")
    training_requests: Topic = Field(
        "offnormal.training-requests", description="out: requests for training, read by `training serve`"
    )
    births: Topic = Field(
        "offnormal.births", description="both, with shape sparkplug: what aliases of metrics stand for (compacted)"
    )
    shadow: Topic = Field("offnormal.shadow", description="out: events of a challenger in the shadow")
    labels: Topic = Field(
        "offnormal.labels", description="in: labels that people give events and incidents (compacted)"
    )
    scores: Topic = Field("offnormal.scores", description="out, if listed in OFFNORMAL_OUTPUTS: every vector's score")
    latents: Topic = Field(
        "offnormal.latents", description="out, if listed in OFFNORMAL_OUTPUTS: the autoencoder's code of every vector"
    )
    reconstructions: Topic = Field(
        "offnormal.reconstructions",
        description="out, if listed in OFFNORMAL_OUTPUTS: every vector as the model reconstructs it",
    )

    @model_validator(mode="after")
    def _not_its_own_input(self) -> "TopicSettings":
        for name, topic in self:
            if name == "sensors":
                continue
            read = re.fullmatch(self.sensors, topic) if self.sensors[0] == "^" else topic in self.sensors.split(",")
            if read:
                raise ValueError(f"sensors: {self.sensors} takes in {topic}, the topic of {name}")
        return self


class SchemaRegistrySettings(Section):
    """The schema registry, which `avro` and `protobuf` need."""

    url: Annotated[str, AfterValidator(_url)] | None = Field(
        None,
        description="URL of a schema registry with Confluent's API, for avro and protobuf, such as http://registry:8081",
    )
    username: str | None = Field(None, description="the registry's user, or API key")
    password: SecretStr | None = Field(None, description="the registry's password, or API secret")
    password_file: str | None = Field(None, description="a file that holds the registry's password")
    ca_file: str | None = Field(None, description="PEM file of the authority that signed its certificate")
    timeout: Duration = Field(5.0, gt=0, le=60, description="how long one request may take")


class ModelSettings(Section):
    """The model that is served and trained."""

    name: Name = Field("default", description="the model in the registry that is served and trained")
    kind: Literal["denoising", "stacked", "sparse", "variational"] = Field(
        "denoising", description="the autoencoder's kind"
    )
    window: int = Field(1, ge=1, le=1024, description="vectors of an entity that are scored together")
    scaler: Literal["fleet", "entity"] = Field(
        "fleet", description="scaling of the readings: one scaler for the fleet, or one for each entity"
    )
    routes: dict[str, Name] = Field(
        {}, description='other models for keys that match a pattern, a JSON object: {"press-*": "presses"}'
    )
    keep: int = Field(10, ge=1, description="artefacts kept in the registry")
    shadow_share: float = Field(
        0,
        ge=0,
        le=1,
        description="share of the vectors that a challenger scores in the shadow before it is promoted; 0: no shadow",
    )
    probation: Duration = Field(
        3600.0, description="how long after a promotion the worker may roll it back by itself; 0: never"
    )
    signing_key: Key | None = Field(
        None, description="signs models and decisions; with it workers serve only what was signed by it"
    )
    signing_key_file: str | None = Field(None, description="a file that holds the signing key")

    @property
    def names(self) -> list[str]:
        """Return all models that a worker serves, first that of records without a route."""
        return list(dict.fromkeys([self.name, *self.routes.values()]))


class EntitySettings(Section):
    """How many entities are kept track of, and for how long."""

    max: int = Field(
        100_000,
        ge=1,
        le=10_000_000,
        description="maximum entities with a window; beyond it the longest idle ones are dropped",
    )
    idle: Duration = Field(86400.0, gt=0, description="how long an entity may be silent before it is forgotten")
    replay: int = Field(
        100_000, ge=0, description="maximum records of a partition that are read back after a start to fill windows"
    )


class DetectionSettings(Section):
    """How many false alarms are allowed, and what an event says."""

    false_alarm_rate: float = Field(
        1e-4, gt=0, lt=1, description="budget: share of normal vectors that may become events, warnings included"
    )
    alerts_per_day: float | None = Field(
        None,
        gt=0,
        description="the budget as events per day, instead of false_alarm_rate; uses the vector rate seen in training",
    )
    top_features: int = Field(5, ge=1, description="features named in an event")
    max_missing: float = Field(
        0.5, ge=0, lt=1, description="share of a vector's readings that may be missing; with more it is not scored"
    )

    follow: bool = Field(
        True, description="let scoring follow each entity's normal operation, slowly, between two trainings"
    )

    follow_every: Duration = Field(
        300.0, gt=0, description="how often a worker publishes by how much the entities have moved, if they have"
    )

    def budget(self, vectors_per_day: float) -> float:
        """Return the share of normal vectors that may become events."""
        if self.alerts_per_day is None or vectors_per_day <= 0:
            return self.false_alarm_rate
        return min(max(self.alerts_per_day / vectors_per_day, 1e-12), 0.5)


class IncidentSettings(Section):
    """When an incident opens and closes."""

    open_after: int = Field(
        3, ge=1, description="number of vectors over budget, among the latest out_of, that open an incident"
    )
    out_of: int = Field(
        10, ge=1, le=1000, description="number of latest vectors of an entity in which open_after counts"
    )
    extreme: float = Field(
        0.001,
        ge=0,
        le=1,
        description="a single vector opens an incident if its p-value is at most this share of the budget",
    )
    quiet: Duration = Field(
        600.0, gt=0, description="how long an entity has to be within budget before its incident closes"
    )
    cooldown: Duration = Field(1800.0, description="at most one notification of an entity within this time")
    related: Duration = Field(60.0, description="incidents of several entities that open within this time are related")

    @model_validator(mode="after")
    def _possible(self) -> "IncidentSettings":
        if self.open_after > self.out_of:
            raise ValueError(f"open_after ({self.open_after}) must not be larger than out_of ({self.out_of})")
        return self


class DriftSettings(Section):
    """Drift detection."""

    enabled: bool = Field(True, description="drift detection, and the training requests it makes")
    entities: int = Field(100, ge=0, description="number of entities that are also watched one by one")


class BatchSettings(Section):
    """The size and delay of batches and commits."""

    max_rows: int = Field(
        65536, ge=1, le=1_000_000, description="maximum records of a batch, which also ends at half of fetch_bytes"
    )
    max_delay: Duration = Field(0.002, le=10, description="how long a batch waits for more rows")
    commit_interval: Duration = Field(
        0.5, le=10, description="how often offsets, and under a backlog also events, are committed"
    )


class TrainingSettings(Section):
    """What a training reads, and how it fits."""

    lookback: Duration = Field(
        86400.0, gt=0, description="how far back from the newest record the training window reaches"
    )
    max_rows: int = Field(1_000_000, ge=50, description="maximum rows, sampled evenly over the window")
    min_rows: int = Field(1000, ge=50, description="minimum rows; with fewer training ends with exit code 5")
    holdout: float = Field(
        0.2, gt=0.02, lt=0.9, description="share of the rows held out to calibrate, spread over the window"
    )
    steps: int = Field(3000, ge=30, description="steps of the optimizer, of 256 rows each")
    schedule: Annotated[str, AfterValidator(_cron)] | None = Field(
        None, description="cron expression (UTC) by which `training serve` trains; without it there is no schedule"
    )
    cooldown: Duration = Field(3600.0, description="minimum time between two requested trainings of a model")
    regime_share: float = Field(
        0.4, gt=0, le=1, description="minimum share of the window that a new regime has to fill to be learned"
    )
    accept_fault_after: Duration = Field(
        86400.0,
        gt=0,
        description="a sensor at fault for so long counts as a change of the plant: training goes on without it",
    )
    seed: int = Field(0, ge=0, description="the same seed gives the same model on the CPU")
    reports: str | None = Field(None, description="a directory for a report of each training, as a page")


class HttpSettings(Section):
    """Probes, metrics and the page."""

    host: str = Field("0.0.0.0", description="address of probes, metrics and the page")
    port: int = Field(8080, ge=0, le=65535, description="port of probes, metrics and the page; 0 switches them off")
    page: bool = Field(True, description="the page for people, at /")
    token: Key | None = Field(None, description="token that opens the page; probes and metrics need none")
    token_file: str | None = Field(None, description="a file that holds the token")
    hosts: Annotated[tuple[HostName, ...], NoDecode, BeforeValidator(listed)] = Field(
        (),
        description="host names with a dot that the page answers to (a,b or a JSON list); all, with a token",
    )
    labels: bool = Field(False, description="whether viewers of the page may confirm and dismiss incidents")

    @property
    def is_local(self) -> bool:
        """Return whether nobody but this machine reaches the port."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def takes_labels(self) -> bool:
        """Return whether labels may be written on the page."""
        return bool(self.port and self.page and self.labels)

    @model_validator(mode="after")
    def _guarded(self) -> "HttpSettings":
        if self.labels and self.token is None and not self.is_local:
            raise ValueError(
                "labels without a token would let anybody who reaches the port decide what training learns; set token"
                " or token_file, or set host to 127.0.0.1"
            )
        return self


class LogSettings(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="minimum level that is logged")
    format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else JSON")

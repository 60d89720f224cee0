"""The whole tree of settings."""

import os
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from worker.settings.fields import CONFIG_FILE, PREFIX, PerVectorOutput, listed, with_its_package
from worker.settings.formats import FORMATS, OutputFormatName
from worker.settings.input_section import InputSettings
from worker.settings.sections import (
    BatchSettings,
    DetectionSettings,
    DriftSettings,
    EntitySettings,
    HttpSettings,
    IncidentSettings,
    KafkaSettings,
    LogSettings,
    ModelSettings,
    SchemaRegistrySettings,
    TopicSettings,
    TrainingSettings,
)


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
        description="exactly_once: a fault repeats nothing; at_least_once: it may repeat outputs, with equal ids;"
        " see docs/guarantees.md",
    )
    outputs: Annotated[tuple[PerVectorOutput, ...], NoDecode, BeforeValidator(listed)] = Field(
        (), description="more output topics, of scores,latents,reconstructions (or a JSON list)"
    )
    event_format: Literal["json", "avro"] = Field(
        "json", description="format of anomaly events: json (CloudEvents), or avro with a schema in the registry"
    )
    output_format: OutputFormatName = Field(
        "input", description="format of scores, latents, reconstructions; input: that of the vectors (protobuf: json)"
    )
    traces: bool = Field(False, description="send an OpenTelemetry span for each batch to OTEL_EXPORTER_OTLP_ENDPOINT")
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = Field(
        "auto", description="device that the model runs on: auto, cpu, cuda, cuda:1"
    )
    threads: int = Field(1, ge=1, le=256, description="CPU threads of the model")

    @property
    def looks_back(self) -> bool:
        """Return whether a score depends on records before the vector's."""
        return self.model.window > 1 or self.input.align

    @field_validator("event_format", "output_format")
    @classmethod
    def _served(cls, value: str) -> str:
        return with_its_package(value)

    @field_validator("traces")
    @classmethod
    def _traceable(cls, value: bool) -> bool:
        if value:
            with_its_package("otel")
        return value

    @model_validator(mode="after")
    def _registry_named(self) -> "Settings":
        for name, value in (
            ("INPUT__FORMAT", self.input.format),
            ("EVENT_FORMAT", self.event_format),
            ("OUTPUT_FORMAT", self.output_format),
        ):
            spec = FORMATS.get(value)
            if spec is not None and spec.needs_registry and self.schema_registry.url is None:
                raise ValueError(f"{PREFIX}{name}: {value} needs {PREFIX}SCHEMA_REGISTRY__URL")
        return self

    @property
    def vector_format(self) -> str:
        """The format of scores, latents, reconstructions."""
        if self.output_format != "input":
            return self.output_format
        return "json" if FORMATS[self.input.format].writer is None else self.input.format

    @property
    def avro_topics(self) -> dict[str, Literal["anomaly", "rows"]]:
        """The topics that are written as Avro, and by which schema."""
        schemas: dict[str, Literal["anomaly", "rows"]] = {}
        if self.event_format == "avro":
            schemas[self.topics.anomalies] = "anomaly"
        if self.vector_format == "avro":
            schemas.update({getattr(self.topics, output): "rows" for output in self.outputs})
        return schemas

    @property
    def source(self) -> str:
        """Return who publishes: the consumer group."""
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
        if self.detection.follow:
            always.append(topics.models)
        if self.model.shadow_share:
            always.append(topics.shadow)
        if self.input.is_sparkplug:
            always.append(topics.births)
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
        """Return the sources, the strongest first: arguments, environment, YAML file."""
        yaml = YamlConfigSettingsSource(settings_cls, yaml_file=os.environ.get(CONFIG_FILE))
        return init_settings, env_settings, yaml

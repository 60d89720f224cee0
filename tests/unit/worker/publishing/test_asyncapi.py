"""The AsyncAPI document knows every topic, and says of messages what the schemas say."""

import json
import subprocess
import sys

import jsonschema
import pytest

from worker.publishing.asyncapi import document
from worker.publishing.cloudevents import schema
from worker.settings import InputSettings, ModelSettings, Settings, TopicSettings

ALL = Settings(
    model=ModelSettings(shadow_share=0.1),
    outputs=("scores", "latents", "reconstructions"),
    input=InputSettings.model_validate({"shape": "sparkplug", "step": "1s"}),
)


def payload(message: str, settings: Settings = ALL) -> dict[str, object]:
    found: dict[str, object] = document(settings)["components"]["messages"][message]["payload"]["schema"]
    return found


def test_every_topic_is_in_it_and_those_that_are_not_written_are_not() -> None:
    channels = document(ALL)["channels"]
    assert {c["address"] for c in channels.values()} == {f.default for f in TopicSettings.model_fields.values()}
    written = {
        channels[o["channel"]["$ref"].rsplit("/", 1)[1]]["address"]
        for o in document(ALL)["operations"].values()
        if o["action"] == "send"
    }
    assert written == set(ALL.written) - {ALL.topics.models}
    assert "shadow" not in document(Settings())["channels"] and "scores" not in document(Settings())["channels"]


def test_every_reference_leads_somewhere() -> None:
    told = document(ALL)

    def look(at: object) -> None:
        if isinstance(at, list):
            for each in at:
                look(each)
        if isinstance(at, dict):
            if "$ref" in at:
                place = told
                for part in at["$ref"].removeprefix("#/").split("/"):
                    place = place[part]
            for each in at.values():
                look(each)

    look(told)
    text = json.dumps(told)
    assert "$defs" not in text and "$schema" not in text


@pytest.mark.parametrize(
    ("value", "sound"),
    [([1, None, 2.5], True), ({"a": 1, "b": None}, True), ([[1, 2], {"a": 1}], True), ("x", False), ([["x"]], False)],
)
def test_vectors_are_what_the_worker_reads(value: object, sound: bool) -> None:
    assert jsonschema.Draft7Validator(payload("vectorsAsJson")).is_valid(value) == sound


def test_an_event_without_references_asks_for_the_same() -> None:
    for name, message in (("drift", "drift"), ("anomaly", "anomaly"), ("incident", "incident")):
        inlined = payload(message)
        assert inlined["required"] == schema(name)["required"]  # type: ignore[arg-type]
        jsonschema.Draft7Validator.check_schema(inlined)
    assert len(payload("drift")["properties"]["data"]["oneOf"]) == 3  # type: ignore[index]


def test_it_names_what_the_settings_name() -> None:
    settings = Settings(input=InputSettings(entity_field="machine", time_field="at"))
    summary = document(settings)["components"]["messages"]["vectorsAsJson"]["summary"]
    assert "`machine`" in summary and "`at`" in summary
    told = subprocess.run(
        [sys.executable, "-m", "worker", "asyncapi"], capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(told)["asyncapi"].startswith("3.")

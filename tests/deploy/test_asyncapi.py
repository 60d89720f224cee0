"""The AsyncAPI document, by AsyncAPI's own parser."""

import json
import subprocess

from tests.deploy.tools import asyncapi_parser
from worker.publishing.asyncapi import Document, document
from worker.settings import ModelSettings, SchemaRegistrySettings, Settings

SCRIPT = """
import {Parser} from '@asyncapi/parser'
import avro from '@asyncapi/avro-schema-parser'
const parser = new Parser()
parser.registerSchemaParser(avro.AvroSchemaParser())
const {document, diagnostics} = await parser.parse(%s)
console.log(JSON.stringify({sound: !!document, found: diagnostics.filter(d => d.severity < 2)}))
"""


def parsed(told: Document) -> Document:
    script = SCRIPT % json.dumps(json.dumps(told))
    done = subprocess.run(
        ["node", "--input-type=module", "-"], input=script, cwd=asyncapi_parser(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found: Document = json.loads(done.stdout)
    return found


def test_the_parser_finds_neither_errors_nor_warnings() -> None:
    everything = Settings(model=ModelSettings(shadow_share=0.1), outputs=("scores", "latents", "reconstructions"))
    registry = SchemaRegistrySettings(url="http://registry:8081")
    avro = Settings(schema_registry=registry, event_format="avro", outputs=("scores",), output_format="avro")
    for settings in (Settings(), everything, avro):
        assert parsed(document(settings)) == {"sound": True, "found": []}


def test_it_would_find_what_is_wrong() -> None:
    told = document(Settings())
    told["operations"]["send_anomalies"]["channel"]["$ref"] = "#/channels/nowhere"
    assert parsed(told)["found"]

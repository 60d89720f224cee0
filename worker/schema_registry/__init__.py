"""A client of a schema registry, for Avro and Protobuf."""

from worker.schema_registry.client import Schema, SchemaRegistry, SchemaText, UnknownSchema

__all__ = ["Schema", "SchemaRegistry", "SchemaText", "UnknownSchema"]

"""A client of a schema registry, for Avro."""

from worker.schema_registry.client import Schema, SchemaRegistry, UnknownSchema

__all__ = ["Schema", "SchemaRegistry", "UnknownSchema"]

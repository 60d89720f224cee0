"""The catalogue of formats: the properties of each format, and the names of the code that reads and writes it.

A new format is its own file, an entry here, and its name in `FormatName`.
"""

from typing import Final, Literal, NamedTuple

FormatName = Literal["json", "f32", "avro", "arrow", "protobuf"]
# input: as the vectors come, or as JSON where the format has no writer
OutputFormatName = Literal["input", "json", "f32", "avro", "arrow"]


class FormatSpec(NamedTuple):
    """One format of sensor vectors, and of what is published of each vector.

    `content_types` are the headers by which a record says that it has this format; the first is the one that we write.
    `reader` is a class with the classmethod `of(FeatureSchema) -> Format`, `writer` a function of VectorRows, None if
    the format is only read. Both are "module:name", and imported when they are needed: some import large packages.
    """

    content_types: tuple[str, ...]
    reader: str
    writer: str | None
    readings: str | None = None  # a class that reads single readings faster than documents are, likewise
    package: str | None = None  # what has to be installed; the extra of pyproject.toml has the format's name
    has_documents: bool = False  # its records are documents, which have a shape (shapes.py)
    needs_registry: bool = False  # of schemas
    names_features: bool = True  # so that training can find them in the records
    # As `worker asyncapi` describes it:
    label: str = ""  # the message is called vectorsAs<label>
    title: str = ""
    media_type: str = ""
    description: str = ""


FORMATS: Final[dict[str, FormatSpec]] = {
    "json": FormatSpec(
        content_types=("application/json", "json", "text/json"),
        reader="worker.decoding.json.format:Json",
        readings="worker.decoding.json.readings:JsonReadings",
        writer="worker.publishing.vector_values:json",
        has_documents=True,
        label="Json",
        title="JSON",
        media_type="application/json",
        description="An array of readings, an object of named readings, or an array of these",
    ),
    "f32": FormatSpec(
        content_types=("f32", "application/x-f32"),
        reader="worker.decoding.f32:F32",
        writer="worker.publishing.vector_values:f32",
        names_features=False,
        label="Floats",
        title="raw float32",
        media_type="application/octet-stream",
        description="float32, little endian, in the order of the model's features; several one after the other",
    ),
    "avro": FormatSpec(
        content_types=("application/avro", "avro"),
        reader="worker.decoding.avro.format:Avro",
        writer="worker.publishing.avro:write_vectors",
        package="fastavro",
        has_documents=True,
        needs_registry=True,
        label="Avro",
        title="Avro",
        media_type="application/avro",
        description="Avro in Confluent's wire format: a field for each feature, or an array `values`",
    ),
    "arrow": FormatSpec(
        content_types=("application/vnd.apache.arrow.stream", "arrow"),
        reader="worker.decoding.arrow.format:Arrow",
        writer="worker.publishing.vector_values:arrow",
        package="pyarrow",
        label="Arrow",
        title="Arrow",
        media_type="application/vnd.apache.arrow.stream",
        description="an Arrow IPC stream of many rows: a column for each feature, or one column `values` of lists",
    ),
    "protobuf": FormatSpec(
        content_types=("application/x-protobuf", "application/protobuf", "protobuf"),
        reader="worker.decoding.protobuf.format:Protobuf",
        writer=None,
        package="grpc_tools",
        has_documents=True,
        needs_registry=True,
        label="Protobuf",
        title="Protobuf",
        media_type="application/x-protobuf",
        description="Protobuf in Confluent's wire format: a field for each feature, or another shape",
    ),
}


def format_of(content_type: str) -> str | None:
    """Return the name of the format that a content type stands for; None if it stands for none."""
    if content_type.endswith("+json"):  # RFC 6839: whatever it is, it is read as JSON
        return "json"
    return next((name for name, spec in FORMATS.items() if content_type in spec.content_types), None)

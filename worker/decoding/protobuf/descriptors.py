"""Compiles a schema of Protobuf (the text of a .proto file) to its message types.

protoc compiles it in a process of its own: the text comes from elsewhere, and what it does to a parser in C++ must not
happen to the worker.
"""

import base64
import subprocess
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any, Final

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from worker.schema_registry import SchemaText, UnknownSchema

_TIMEOUT: Final = 10.0  # seconds that protoc may take
_OWN: Final = "offnormal-registered.proto"  # a registry does not say what a schema's file is called


class MessageTypes:
    """The message types of one schema."""

    def __init__(self, schema: SchemaText):
        """Compile the schema. Raises UnknownSchema if it is invalid."""
        files = FileDescriptorSet.FromString(_compiled(schema))
        self._pool = DescriptorPool()
        try:
            for file in files.file:  # a file comes after those that it imports
                self._pool.Add(file)
        except TypeError as error:
            raise UnknownSchema(f"the schema is not valid: {error}"[:300]) from None
        self._file = next(file for file in files.file if file.name == _OWN)

    def at(self, indices: tuple[int, ...]) -> Any:
        """Return the class of the message with this place: its index in the file, and those within each message.

        Raises LookupError if there is none.
        """
        name, messages = self._file.package, self._file.message_type
        for index in indices:
            if not 0 <= index < len(messages):
                raise LookupError(f"the schema has no message {list(indices)}")
            found: DescriptorProto = messages[index]
            name, messages = f"{name}.{found.name}".lstrip("."), found.nested_type
        return GetMessageClass(self._pool.FindMessageTypeByName(name))


def _compiled(schema: SchemaText) -> bytes:
    """Return a FileDescriptorSet, imports first. Raises UnknownSchema."""
    with tempfile.TemporaryDirectory(prefix="offnormal-proto-") as folder:
        try:
            told, out = _written(schema, Path(folder)), Path(folder, "offnormal-out")
        except (OSError, UnicodeError) as error:
            raise UnknownSchema(f"the schema is not valid: {error!r}"[:300]) from None
        # -P: no code from the working directory
        command = [sys.executable, "-P", "-m", "grpc_tools.protoc", f"-I{folder}", f"--descriptor_set_in={told}"]
        command += ["--include_imports", f"--descriptor_set_out={out}", _OWN]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT, check=False)
            if done.returncode:
                line = " ".join(done.stderr.decode("utf-8", "replace").split())
                line = line.replace(f"{folder}/", "").replace(f"{_OWN}:", "")
                raise UnknownSchema(f"the schema is not valid: {line[:200]}")
            return out.read_bytes()
        except subprocess.TimeoutExpired:
            raise UnknownSchema(f"the schema took more than {_TIMEOUT:.0f} s to compile") from None
        except OSError as error:
            raise UnknownSchema(f"the schema is not valid: {error!r}") from None


def _written(schema: SchemaText, folder: Path) -> Path:
    """Write the texts to the folder, and the descriptors to one file; return that file. Raises UnknownSchema."""
    described = FileDescriptorSet()
    for name, text in [*schema.references.items(), (_OWN, schema.text)]:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name or len(name) > 200:
            raise UnknownSchema(f"a reference of the name {name[:80]!r}")
        if (descriptor := _descriptor(text)) is not None:
            descriptor.name = name
            described.file.append(descriptor)
        else:
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    told = folder / "offnormal-in"
    told.write_bytes(described.SerializeToString())
    return told


def _descriptor(text: str) -> FileDescriptorProto | None:
    """Return the descriptor that a schema is instead of text: Confluent's client in Python registers it, as base64."""
    try:
        return FileDescriptorProto.FromString(base64.b64decode(text, validate=True))
    except (ValueError, DecodeError):
        return None

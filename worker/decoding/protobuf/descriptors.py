"""Compiles a schema of Protobuf (the text of a .proto file) to its message types.

protoc compiles it in a process of its own: the text comes from elsewhere, and what it does to a parser in C++ must not
happen to the worker.
"""

import base64
import os
import subprocess
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any, Final

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from worker.errors import SchemaRegistryError
from worker.schema_registry import SchemaText, UnknownSchema

_TIMEOUT: Final = 5.0  # seconds that protoc may take
_PASSED_ON: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "TMPDIR")  # to protoc: no secrets
_OWN: Final = "offnormal-registered.proto"  # a registry does not say what a schema's file is called


class MessageTypes:
    """The message types of one schema."""

    def __init__(self, schema: SchemaText):
        """Compile the schema. Raises UnknownSchema if it is invalid, SchemaRegistryError if it cannot be compiled."""
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
            message: DescriptorProto = messages[index]
            name, messages = f"{name}.{message.name}".lstrip("."), message.nested_type
        return GetMessageClass(self._pool.FindMessageTypeByName(name))


def _compiled(schema: SchemaText) -> bytes:
    """Return a FileDescriptorSet, imports first.

    Raises UnknownSchema if the schema is invalid, SchemaRegistryError if it could not be compiled for another reason.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="offnormal-proto-") as folder:
            descriptors, out = _written(schema, Path(folder)), Path(folder, "offnormal-out")
            # -P: no code from the working directory
            command = [
                sys.executable,
                "-P",
                "-m",
                "grpc_tools.protoc",
                f"-I{folder}",
                f"--descriptor_set_in={descriptors}",
            ]
            command += ["--include_imports", f"--descriptor_set_out={out}", _OWN]
            environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
            done = subprocess.run(command, env=environment, capture_output=True, timeout=_TIMEOUT, check=False)
            line = " ".join(done.stderr.decode("utf-8", "replace").split())
            line = line.replace(f"{folder}/", "").replace(f"{_OWN}:", "")[:200]
            if done.returncode < 0 or (done.returncode and "Traceback" in line):  # killed, or Python failed
                raise SchemaRegistryError(
                    f"a schema could not be compiled: protoc ended with {done.returncode}: {line}"
                )
            if done.returncode:
                raise UnknownSchema(f"the schema is not valid: {line}")
            return out.read_bytes()
    except subprocess.TimeoutExpired:
        raise SchemaRegistryError(f"a schema could not be compiled: it took more than {_TIMEOUT:.0f} s") from None
    except OSError as error:  # such as a full disk
        raise SchemaRegistryError(f"a schema could not be compiled: {error}") from None


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
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
            except (FileExistsError, IsADirectoryError, NotADirectoryError, UnicodeError) as error:
                raise UnknownSchema(f"the schema is not valid: {error!r}"[:300]) from None
    descriptors = folder / "offnormal-in"
    descriptors.write_bytes(described.SerializeToString())
    return descriptors


def _descriptor(text: str) -> FileDescriptorProto | None:
    """Return the descriptor that a schema is instead of text: Confluent's client in Python registers it, as base64."""
    try:
        return FileDescriptorProto.FromString(base64.b64decode(text, validate=True))
    except (ValueError, DecodeError):
        return None

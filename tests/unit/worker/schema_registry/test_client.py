"""Whatever a schema registry answers, the client returns a schema or raises an error, within its time limit."""

import contextlib
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.record_blocks import block_of
from tests.registry import SmallRegistry
from worker.decoding import Decoder
from worker.errors import SchemaRegistryError
from worker.schema_registry import SchemaRegistry, UnknownSchema
from worker.settings import InputSettings, SchemaRegistrySettings

OK = b"HTTP/1.1 200 OK\r\n"
Script = Callable[[socket.socket], None]


class Liar:
    """Answers each connection by what `script` sends."""

    def __init__(self) -> None:
        self.script: Script = lambda _: None
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.recv(65536)
            self.script(connection)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def liar() -> Iterator[Liar]:
    made = Liar()
    yield made
    made.close()


def client(liar: Liar, timeout: float = 2) -> SchemaRegistry:
    return SchemaRegistry(SchemaRegistrySettings(url=liar.url, timeout=timeout))


def says(answer: bytes) -> Script:
    return lambda connection: connection.sendall(answer)


def whole(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


BROKEN = {
    "nothing": b"",
    "no HTTP": b"\x16\x03\x01garbage\r\n\r\n",
    "a chunk cut off": OK + b'Transfer-Encoding: chunked\r\n\r\n10\r\n{"sch',
    "no chunk": OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a body cut off": OK + b'Content-Length: 100\r\n\r\n{"schema": "string"}',
    "a long header": OK + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
    "many headers": OK + b"X: a\r\n" * 200 + b"\r\n",
    "an error cut off": b"HTTP/1.1 503 Away\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nab",
    "no JSON": whole(b"<html>"),
    "no text": whole(b"\xff\xfe\x00"),
    "deep JSON": whole(b"[" * 100_000),
    "a long number": whole(b"9" * 100_000),
    "sent on to itself": b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n",
    "sent on to a file": b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
    "sent on by FTP": b"HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1/a\r\nContent-Length: 0\r\n\r\n",
    "sent on to no port": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:x/\r\nContent-Length: 0\r\n\r\n",
    "sent on to nowhere": b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_is_an_error_that_says_so(liar: Liar, name: str) -> None:
    """As decoding raises it: the worker reads these records again."""
    liar.script = says(BROKEN[name])
    decoder = Decoder(InputSettings(format="avro"), ("a",), client(liar))
    with pytest.raises(SchemaRegistryError) as caught:
        decoder.decode(block_of([b"\0\0\0\0\5abc"]))
    assert liar.url in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(SchemaRegistryError):
        client(liar).subjects()
    with pytest.raises(SchemaRegistryError):
        client(liar).register("s", "string")


ODD = {
    "null": b"null",
    "a number": b"7",
    "infinity": b"Infinity",
    "a list": b"[1]",
    "no schema in it": b"{}",
    "a schema of another kind": b'{"schemaType": [], "schema": "string"}',
    "a schema that is none": b'{"schema": 7}',
    "references that are a number": b'{"schema": "string", "references": 7}',
    "references that are an object": b'{"schema": "string", "references": {"a": 1}}',
    "a reference that is none": b'{"schema": "string", "references": [7]}',
    "a reference's version without end": b'{"schema": "string", "references": [{"subject": "s", "name": "n",'
    b' "version": Infinity}]}',
    "a reference of half a character": b'{"schema": "string", "references": [{"subject": "\\ud800", "name": "n",'
    b' "version": 1}]}',
    "a reference to itself": b'{"schema": "string", "references": [{"subject": "s", "name": "n", "version": 1}]}',
    "many references": json.dumps(
        {"schema": "string", "references": [{"subject": "s", "name": f"n{k}", "version": 1} for k in range(5)]}
    ).encode(),
    "too much": b'{"schema": "' + b"a" * (4 * 2**20) + b'"}',
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_answer_is_no_schema(liar: Liar, name: str) -> None:
    asked: list[None] = []

    def script(connection: socket.socket) -> None:
        asked.append(None)
        connection.sendall(whole(ODD[name]))

    liar.script = script
    with pytest.raises(UnknownSchema):
        client(liar).schema(5)
    assert len(asked) <= 201, "each reference is a request"
    with pytest.raises(SchemaRegistryError):
        client(liar).register("s", "string")


@pytest.mark.parametrize("subjects", [b"7", b"null", b'{"a": 1}', b'"text"'])
def test_subjects_that_are_no_list_are_of_no_registry(liar: Liar, subjects: bytes) -> None:
    liar.script = says(whole(subjects))
    with pytest.raises(SchemaRegistryError, match="is no schema registry"):
        client(liar).subjects()


def test_an_id_that_is_no_number_is_refused(liar: Liar) -> None:
    liar.script = says(whole(b'{"id": Infinity}'))
    with pytest.raises(SchemaRegistryError, match="does not take the schema"):
        client(liar).register("s", "string")


DRIPS = {
    "the status": (b"", b"H"),
    "headers": (OK, b"X"),
    "many headers": (OK, b"X: y\r\n"),
    "a body": (OK + b"\r\n", b" "),
    "a body of a length": (OK + b"Content-Length: 1000000\r\n\r\n", b" "),
    "chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "go on, go on": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "an error": (b"HTTP/1.1 500 Away\r\n\r\n", b" "),
    "where to": (b"HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n", b" "),
}


@pytest.mark.parametrize("name", DRIPS)
def test_an_answer_that_drips_has_its_time_as_a_whole(liar: Liar, name: str) -> None:
    begin, drop = DRIPS[name]

    def script(connection: socket.socket) -> None:
        connection.sendall(begin)
        for _ in range(200):
            connection.sendall(drop)
            time.sleep(0.05)

    liar.script = script
    began = time.monotonic()
    with pytest.raises(SchemaRegistryError):
        client(liar, timeout=0.5).schema(5)
    assert time.monotonic() - began < 3


def test_an_answer_cut_off_by_its_time_is_not_taken_for_a_whole_one(liar: Liar) -> None:
    """Without a length its end is the connection's."""

    def script(connection: socket.socket) -> None:
        connection.sendall(OK + b'\r\n{"schema": "string"}')
        time.sleep(5)

    liar.script = script
    with pytest.raises(SchemaRegistryError, match="no whole answer within 0.5 s"):
        client(liar, timeout=0.5).schema(5)


def test_fuzzed_answers_raise_nothing_else(liar: Liar) -> None:
    rng = random.Random(7)
    body = b'{"schema": "{\\"type\\": \\"string\\"}", "references": [], "schemaType": "AVRO", "id": 3}'
    sound = [
        whole(body),
        OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body),
        whole(b'{"error_code": 40403, "message": "no"}', b"404 Not Found"),
        b"HTTP/1.1 301 Moved\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n",
    ]
    asking = client(liar, timeout=0.3)
    for _ in range(400):
        answer = bytearray(rng.choice(sound))
        for _ in range(rng.choice([0, 1, 1, 2, 8])):
            at = rng.randrange(len(answer))
            answer[at : at + rng.choice([0, 1, 5])] = rng.randbytes(rng.choice([0, 1, 3]))
        liar.script = says(bytes(answer[: rng.choice([len(answer), rng.randrange(len(answer) + 1)])]))
        with contextlib.suppress(SchemaRegistryError, UnknownSchema):
            asking.schema(rng.randrange(1, 2**31))
        with contextlib.suppress(SchemaRegistryError):
            asking.register("s", "string")


def test_a_sound_answer_is_taken_by_a_client_that_was_lied_to(liar: Liar) -> None:
    asking = client(liar)
    liar.script = says(BROKEN["a chunk cut off"])
    with pytest.raises(SchemaRegistryError):
        asking.schema(5)
    liar.script = says(whole(b'{"schema": "string"}'))
    assert asking.schema(5) == ("string", {})


def test_what_it_says_where_it_sends_on_is_not_read(liar: Liar) -> None:
    registry, sent = SmallRegistry(), [0]
    id = registry.add("string")

    def script(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: %s/schemas/ids/%d\r\n\r\n" % (registry.url.encode(), id))
        for _ in range(1000):
            connection.sendall(bytes(2**20))
            sent[0] += 1

    liar.script = script
    try:
        assert client(liar).schema(id) == ("string", {})
        assert sent[0] < 100, "MiB"
    finally:
        registry.close()

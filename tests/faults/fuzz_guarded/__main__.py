"""Fuzzing of the compiled loops, which read and write by raw addresses. Their buffers end (some begin) at pages that
may not be touched (tests/faults/guarded.py), and their results are compared with the slow path where there is one.

    python -m tests.faults.fuzz_guarded json avro --records 1000000 --seed 7
    python -m tests.faults.fuzz_guarded json --seed 7 --chunk 12      # the chunk in which an earlier run died

A run consists of chunks. Each starts from its own number, so a single chunk can be run again with the same inputs. An
input is written to a file before a target works on it, and the file survives a SIGSEGV.
"""

import argparse
import faulthandler
import itertools
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.faults.fuzz_guarded.target import LARGEST, PATIENCE, Journal, Target
from tests.faults.fuzz_guarded.targets import TARGETS
from tests.faults.guarded import Guarded, GuardedEmpty, guarded_empty
from tests.faults.wrong_loops import WRONG

CHUNK: Final = 2000  # records, or some more


def fuzz(
    make: type[Target], name: str, n: int, seed: int, journal: Journal, chunks: Iterable[int], patience: float
) -> int:
    """-> how many records were tried: n, or some more."""
    memory = Guarded(LARGEST)

    def chunk(number: int, empty: GuardedEmpty | None, most: int) -> int:
        faulthandler.dump_traceback_later(patience if empty is not None else 10 * patience, exit=True)
        journal.begin(number)
        target = make(random.Random(f"{seed}/{name}/{number}"), journal, memory, empty)
        done = 0
        while done < min(most, CHUNK):
            done += target.step()
        faulthandler.cancel_dump_traceback_later()
        return done

    chunk(-1, None, sys.maxsize)  # compiles
    done = 0
    with guarded_empty() as empty:
        for number in chunks:
            done += chunk(number, empty, n - done)
            if done >= n:
                break
    return done


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.fuzz_guarded",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all, unless some are named")
    parser.add_argument("--records", type=int, default=20_000, help="of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chunk", type=int, help="this one alone")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds that a chunk may take")
    parser.add_argument("--journal", type=Path, help="the file for what is worked on")
    arguments = parser.parse_args()
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    journal = Journal(arguments.journal or Path(tempfile.mkdtemp(), "journal"))
    known = TARGETS | WRONG  # the wrong ones are had by name alone
    for name in arguments.targets or TARGETS:
        began = time.monotonic()
        chunks = itertools.count() if arguments.chunk is None else [arguments.chunk]
        done = fuzz(known[name], name, arguments.records, arguments.seed, journal, chunks, arguments.patience)
        seconds = round(time.monotonic() - began, 1)
        print(json.dumps({"target": name, "records": done, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()

"""`python -m tests.faults`: Offnormal's promises under faults, on an Apache Kafka of its own.

    python -m tests.faults                          # small counts, as in CI
    python -m tests.faults --full                   # 100 kills, 20 zombies, 20 broker restarts, 30 minutes of soak, ...
    python -m tests.faults kill=30 zombie=5         # these scenarios, so often
    python -m tests.faults kill --seed 4711         # as in an earlier run

Prints, for each scenario, what was done and what came of it; the exit code is 1 if a promise was broken.
"""

import argparse
import contextlib
import functools
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.brokers import ApacheKafka, can_run_apache
from tests.cluster import Cluster

# Each registers its scenarios as it is imported: they are listed in this order, and hostile input comes last.
from tests.faults import (  # noqa: F401
    cluster_outages,
    cluster_scenarios,
    fuzz,
    fuzz_batches,
    reading_scenarios,
    scenarios,
    topic_scenarios,
    training_and_soak,
)
from tests.faults.fuzz_world import FUZZERS
from tests.faults.outcome import SCENARIOS, Skipped
from tests.faults.world import Setting


def main() -> int:
    told = "\n".join(
        f"  {name:<16} {small:>7} {full:>8}  {' '.join((call.__doc__ or '').split())}"
        for name, (call, small, full) in (SCENARIOS | FUZZERS).items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        epilog=f"scenarios, with their counts in CI and in full:\n{told}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("wanted", nargs="*", metavar="SCENARIO[=N]", help="all, unless some are named")
    parser.add_argument("--full", action="store_true", help="with the large counts")
    parser.add_argument("--seed", type=int, default=None, help="of an earlier run, to do the same again")
    parser.add_argument("--rate", type=int, default=2000, help="records a second that are sent (default 2000)")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the logs of all processes")
    arguments = parser.parse_args()
    known = SCENARIOS | FUZZERS
    counts = {name: full if arguments.full else small for name, (_, small, full) in known.items()}
    chosen = {}
    for each in arguments.wanted or known:
        name, _, count = each.partition("=")
        if name not in known or (count and not count.isdecimal()):
            parser.error(f"{each}: one of {', '.join(known)}, with =N or without")
        chosen[name] = int(count) if count else counts[name] or (1 if arguments.wanted else 0)
    left_out = [name for name, count in chosen.items() if not count]
    chosen = {name: count for name, count in chosen.items() if count}
    if not can_run_apache():
        print("needs Java 17, and mvn: faults are tried on a real Apache Kafka", file=sys.stderr)
        return 1
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10**6)
    folder = Path(tempfile.mkdtemp(prefix="offnormal-faults-"))
    print(f"seed {seed}, {arguments.rate} records a second, logs in {folder}", flush=True)
    if left_out:
        print(f"left out for time, to be named, or with --full: {', '.join(left_out)}", flush=True)
    failed = []
    with contextlib.ExitStack() as stack:
        kafka = stack.enter_context(ApacheKafka())
        cluster = functools.cache(lambda: stack.enter_context(Cluster()))
        setting = Setting.make(kafka, cluster, folder, arguments.rate)
        for name, n in chosen.items():
            if not _run(name, n, seed, setting):
                failed.append(name)
    if failed:
        print(f"FAILED: {', '.join(failed)}; again: python -m tests.faults {' '.join(failed)} --seed {seed}")
    else:
        print(f"{len(chosen)} scenarios: nothing lost, nothing twice")
    return bool(failed)


def _run(name: str, n: int, seed: int, setting: Setting) -> bool:
    call = (SCENARIOS | FUZZERS)[name][0]
    began = time.monotonic()
    try:
        if not setting.kafka.running():
            setting.kafka.start()
        outcome = call(setting, random.Random(f"{seed}/{name}"), n)
    except Skipped as reason:
        print(f"skipped  {name}: {reason}", flush=True)
        return True
    except Exception:
        print(f"FAILED   {name}\n{traceback.format_exc()}", flush=True)
        return False
    did = ", ".join(f"{count:,} {what}" for what, count in outcome.done.items())
    print(f"{'FAILED' if outcome.complaints else 'ok':<8} {name} ({time.monotonic() - began:.0f} s): {did}")
    print(f"         {outcome.seen}", flush=True)
    for complaint in outcome.complaints:
        print(f"         BROKEN: {complaint}", flush=True)
    return not outcome.complaints


if __name__ == "__main__":
    sys.exit(main())

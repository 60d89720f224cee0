"""`python -m worker topics`: makes the topics with sound settings, or verifies those that are there."""

import json
from argparse import Namespace

from worker.kafka.topics import create
from worker.settings import Settings


def run(settings: Settings, arguments: Namespace) -> int:
    """Make or verify the topics; return 0 if all are there, 4 if one is missing under --verify."""
    states = create(settings, arguments.partitions, arguments.replication, arguments.verify)
    for state in states:
        status = "made" if state.created else "there" if state.partitions else "missing"
        differences = "; ".join(f"{k} is {v}, should be {state.spec.config[k]}" for k, v in state.differs.items())
        print(f"{state.spec.name:<28} {status:<8} {state.partitions:>3} partitions  {differences}".rstrip())
    if arguments.json:
        print(json.dumps({s.spec.name: {"partitions": s.partitions, "made": s.created} for s in states}))
    return 0 if all(state.partitions for state in states) else 4

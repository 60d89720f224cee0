"""`python -m worker topics`: makes the topics with sound settings, verifies them, or looks into the input."""

import json
from argparse import Namespace
from typing import Final

from worker import cli
from worker.blocks import TopicSet
from worker.kafka.topics import create
from worker.settings import Settings

_FOR_EVER: Final = 100 * 365 * 86_400.0  # seconds


def run(settings: Settings, arguments: Namespace) -> int:
    """Make or verify the topics, or look; return 0 if all are there, 4 if one is missing under --verify."""
    if arguments.look:  # it needs more packages
        return int(cli.load_command("worker.commands.topics_look").run(settings, arguments))
    states = create(settings, arguments.partitions, arguments.replication, arguments.verify)
    for state in states:
        status = "made" if state.created else "there" if state.partitions else "missing"
        differences = "; ".join(f"{k} is {v}, should be {state.spec.config[k]}" for k, v in state.differs.items())
        print(f"{state.spec.name:<28} {status:<8} {state.partitions:>3} partitions  {differences}".rstrip())
    topics = TopicSet.of(settings.topics.sensors)
    sensors = min((state for state in states if state.spec.name in topics), key=lambda s: s.retention, default=None)
    if sensors is None:
        print(f"\nno topic matches {topics} yet (OFFNORMAL_TOPICS__SENSORS)")
    elif sensors.retention < _FOR_EVER:
        print(
            f"\n{sensors.spec.name} keeps records for {sensors.retention / 86_400:g} days by their own time. Before you"
            " send it older ones, such as a history to train on, raise its retention.ms"
        )
    if arguments.json:
        print(json.dumps({s.spec.name: {"partitions": s.partitions, "made": s.created} for s in states}))
    return 0 if all(state.partitions for state in states) else 4

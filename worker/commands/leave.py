"""`python -m worker leave NAME --keep N`: static members NAME-N and above leave the group.

A worker with OFFNORMAL_KAFKA__INSTANCE_ID keeps its partitions when it stops, so that it can continue without a
rebalance if it restarts at once. A worker that never comes back would keep them until its session ends.
"""

import json
import time
from argparse import Namespace

from kafka.admin import MemberToRemove

from worker.errors import KafkaUnavailable
from worker.kafka import connection
from worker.kafka.errors import readable_errors
from worker.observability.terminal_text import printable
from worker.settings import Settings


def run(settings: Settings, arguments: Namespace) -> None:
    """Make static members leave the group."""
    time.sleep(arguments.after)
    group = settings.kafka.group
    with readable_errors(f"group {group}", settings.kafka.bootstrap), connection.admin(settings.kafka) as client:
        described = client.describe_groups([group])[group]
        departing = [
            name for name in map(_instance, described["members"]) if _is_beyond(name, arguments.name, arguments.keep)
        ]
        results = client.remove_group_members(
            group, [MemberToRemove(group_instance_id=name) for name in sorted(departing)]
        )
    failed = [error.__name__ for error in results.values() if error.errno]
    if failed:
        raise KafkaUnavailable(
            f"of {len(departing)} members that should leave {group}, {len(failed)} did not: {', '.join(failed)};"
            " run the command again, or wait until OFFNORMAL_KAFKA__SESSION_TIMEOUT has removed them"
        )
    if arguments.json:
        print(json.dumps({"group": group, "left": sorted(departing)}))
    else:
        print(printable(f"{group}: {', '.join(sorted(departing)) or 'nobody'} left"))


def _instance(member: dict[str, object]) -> str:
    return str(member.get("group_instance_id") or "")


def _is_beyond(instance: str, name: str, keep: int) -> bool:
    prefix, _, ordinal = instance.rpartition("-")
    return prefix == name and ordinal.isascii() and ordinal.isdigit() and int(ordinal) >= keep

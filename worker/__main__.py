"""`python -m worker`: run the worker, or one of its commands."""

import sys
from collections.abc import Sequence
from typing import Any

from worker.native.imports import interruptible

with interruptible():
    from worker import cli
    from worker.settings import Settings, seconds

BEGIN = (
    ("worker demo", "runs the whole loop for a minute, on real data, with its own broker"),
    ("worker topics", "creates the topics on your Kafka (OFFNORMAL_KAFKA__BOOTSTRAP)"),
    ("worker check", "checks what a worker needs, and says how to fix what is wrong"),
    ("training", "trains a model on the last 24 h of offnormal.sensors"),
    ("worker", "scores vectors until SIGTERM; start up to one per partition"),
    ("worker alerts", "shows incidents as they open and close"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = parser().parse_args(argv)
    if arguments.command == "explain":  # runs without settings, which may be what is wrong
        return int(cli.load_command("worker.commands.explain").run(arguments.code))
    return cli.run(lambda settings: _dispatch(arguments, settings))


def parser() -> cli.Parser:
    """Return the parser of the command line."""
    parser = cli.parser(
        "worker",
        "Watches sensor vectors in Kafka for departures from normal operation, and publishes what it finds as events.\n"
        "Without a command: scores them with the champion model until SIGTERM.",
        BEGIN,
    )
    parser.add_argument("--until-end", action="store_true", help="stop at the end offsets seen at start")
    parser.add_argument("--profile", action="store_true", help="at the end, print the time per row of each stage")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    topics = commands.add_parser("topics", help="make the topics, verify them, or look into the input")
    topics.add_argument("--partitions", type=int, default=6, help="partitions of new topics (default 6)")
    topics.add_argument(
        "--replication", type=int, default=-1, help="replication factor of new topics (default: the broker's)"
    )
    topics.add_argument("--verify", action="store_true", help="only verify, create nothing")
    topics.add_argument(
        "--look", action="store_true", help="show what the last records are, and the settings that read them"
    )
    topics.add_argument("--json", action="store_true", help="one JSON object as the last line")

    check = commands.add_parser("check", help="check settings, broker, access, topics, champion and device")
    check.add_argument("--json", action="store_true", help="one JSON object as the last line")

    _add_alerts_and_labels(commands)

    replay = commands.add_parser("replay", help="put dead letters back into the sensors topic, once each")
    replay.add_argument("--dry-run", action="store_true", help="only count them")
    replay.add_argument("--json", action="store_true", help="one JSON object as the last line")

    commands.add_parser("asyncapi", help="topics and messages as an AsyncAPI 3 document, by these settings")

    leave = commands.add_parser("leave", help="after a scale-in, remove static members that will not return")
    leave.add_argument("name", metavar="NAME", help="members are called NAME-0, NAME-1, ... like a StatefulSet's pods")
    leave.add_argument("--keep", type=int, required=True, metavar="N", help="remove NAME-N and above from the group")
    leave.add_argument(
        "--after", type=seconds, default=0.0, metavar="TIME", help="wait first, so that they can end, such as 15s"
    )
    leave.add_argument("--json", action="store_true", help="one JSON object as the last line")

    explain = commands.add_parser("explain", help="what the code of an error, a refusal or a dead letter means")
    explain.add_argument("code", metavar="CODE", nargs="?", help="without: all codes")

    demo = commands.add_parser("demo", help="the whole loop on real data, with a broker of its own")
    demo.add_argument("--json", action="store_true", help="the summary as one JSON object, as the last line")
    demo.add_argument(
        "--page", action="store_true", help="serve the live page, replay more slowly, and run until Ctrl-C"
    )
    demo.add_argument("--tags", action="store_true", help="send each reading as a record of its own, to be aligned")
    demo.add_argument(
        "--speed", type=int, help="vectors a second that are replayed (default 1300, with --page 340, with --tags 400)"
    )

    return parser


def _add_alerts_and_labels(commands: Any) -> None:
    alerts = commands.add_parser("alerts", help="follow incidents, or single events")
    alerts.add_argument("--events", action="store_true", help="single anomaly events, not incidents")
    alerts.add_argument(
        "--since", default="latest", help="earliest, latest, a time, or how long ago: 1h (default latest)"
    )
    alerts.add_argument("--entity", help="only this entity's")
    alerts.add_argument(
        "--json", action="store_true", help="print the records unchanged, one per line, including updates"
    )
    alerts.add_argument("--until-end", action="store_true", help="stop at the topic's end")

    label = commands.add_parser("label", help="confirm or dismiss an event, an incident or a sensor's fault")
    label.add_argument("id", metavar="ID", help="of the event or incident: topic/partition/offset/row; or of the fault")
    label.add_argument("verdict", choices=["confirmed", "dismissed"])
    label.add_argument("--note", help="stored with the label")
    label.add_argument("--who", help="default: user and host")
    label.add_argument("--json", action="store_true", help="the label as one JSON object, as the last line")


def _dispatch(arguments: object, settings: Settings) -> int | None:
    """Run the command, and import only what it needs: `topics` must not wait for torch."""
    command = arguments.command  # type: ignore[attr-defined]
    if command is None:
        worker = cli.load_command("worker.runtime.worker").Worker(settings, arguments.until_end)  # type: ignore[attr-defined]
        cli.on_stop(worker.stop)
        worker.run()
        if arguments.profile:  # type: ignore[attr-defined]
            print(worker.metrics.profile())
        return 0
    result: int | None = cli.load_command(f"worker.commands.{command}").run(settings, arguments)
    return result


if __name__ == "__main__":
    sys.exit(main())

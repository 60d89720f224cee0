"""`python -m training`: one training run, or a look at the models."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, Final, get_args

from worker.native.imports import interruptible

with interruptible():
    from training.evaluation.baselines import BASELINES
    from worker import cli
    from worker.errors import SettingsError
    from worker.settings import ModelSettings, Settings

KINDS = get_args(ModelSettings.model_fields["kind"].annotation)  # as the settings name them: --help needs no torch
GATE_REFUSED: Final = 3
COMMANDS = {
    "serve": "training.run.scheduler",
    "models": "training.commands.models",
    "report": "training.report.report",
    "evaluate": "training.evaluation.evaluate",
    "sample": "training.commands.sample",
    "showcase": "training.showcase.showcase",
}


BEGIN = (
    ("worker check", "checks settings, broker, access and topics"),
    ("training", "trains a model once"),
    ("training models list", "lists the models, and shows which one is champion"),
    ("training report --out report.html", "writes a page with the champion's training data and figures"),
    ("training serve", "keeps training: on a schedule, and when a worker detects drift"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = parser().parse_args(argv)
    return cli.run(lambda settings: _dispatch(arguments, settings))


def parser() -> cli.Parser:
    """Return the parser of the command line."""
    parser = cli.parser(
        "training",
        "Makes the models that the workers serve. Without a command: reads the recent window from Kafka, trains a\n"
        "model on it, and makes it champion if the gate lets it pass.",
        BEGIN,
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, as the last line")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser(
        "serve", help="train on OFFNORMAL_TRAINING__SCHEDULE and when a drift asks for it, until SIGTERM"
    )
    _add_models(commands)
    report = commands.add_parser("report", help="write a page on what a version was trained on, with its figures")
    report.add_argument("version", nargs="?", help="default: the champion")
    report.add_argument("--out", metavar="FILE", required=True, help=".html")
    _add_evaluate(commands)
    sample = commands.add_parser("sample", help="generate normal vectors from a variational champion")
    sample.add_argument("--rows", type=int, required=True)
    sample.add_argument("--out", metavar="FILE", required=True, help=".npz, .npy or .csv")
    sample.add_argument("--seed", type=int, default=0)
    showcase = commands.add_parser("showcase", help="the five uses of the kinds, on scikit-learn's digits, as a page")
    showcase.add_argument("--out", metavar="DIR", required=True)
    return parser


def _add_models(commands: Any) -> None:
    models = commands.add_parser("models", help="the models in the registry, and which of them is champion")
    actions = models.add_subparsers(dest="action", metavar="ACTION", required=True)
    listed = actions.add_parser("list", help="all versions")
    show = actions.add_parser("show", help="a version's model card")
    show.add_argument("version", nargs="?", help="default: the champion")
    promote = actions.add_parser("promote", help="make a version champion")
    promote.add_argument("version")
    rollback = actions.add_parser("rollback", help="make the champion's predecessor champion again")
    compare = actions.add_parser("compare", help="two versions' figures side by side")
    compare.add_argument(
        "versions",
        nargs="*",
        metavar="VERSION",
        help="default: the champion and its predecessor; one: it and the champion",
    )
    pin = actions.add_parser("pin", help="make a version champion and keep training and workers from replacing it")
    pin.add_argument("version", nargs="?", help="default: the champion")
    pin.add_argument("--off", action="store_true", help="remove the pin")
    history = actions.add_parser("history", help="all decisions: who decided what, when and why")
    for action in (listed, promote, rollback, compare, pin, history):
        action.add_argument("--json", action="store_true", help="one JSON object as the last line")
    for action in (promote, rollback, pin):
        action.add_argument("--why", default="by hand", help="kept in the history")


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate", help="measure how well a model detects on labelled files, compared with others"
    )
    evaluate.add_argument("files", nargs="+", metavar="FILE", help="npz (X_train, X_test, y_test, ...), CSV or Parquet")
    evaluate.add_argument("--kind", choices=KINDS, help="default: OFFNORMAL_MODEL__KIND")
    evaluate.add_argument("--against", metavar="NAMES", help=f"baselines, separated by commas: {', '.join(BASELINES)}")
    evaluate.add_argument(
        "--missing",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the readings that is dropped at random before scoring",
    )
    evaluate.add_argument(
        "--no-follow",
        action="store_true",
        help="score without following the plant, as with OFFNORMAL_DETECTION__FOLLOW=false",
    )
    evaluate.add_argument(
        "--fleet",
        action="store_true",
        help="also evaluate one model for all files, without and with a scaler for each file",
    )
    evaluate.add_argument(
        "--out", metavar="DIR", help="write score, p_value and contributions of each row, one npz per file"
    )
    evaluate.add_argument("--json", action="store_true", help="all figures as one JSON object, as the last line")


def _dispatch(arguments: argparse.Namespace, settings: Settings) -> int | None:
    if arguments.command in COMMANDS:
        try:  # imported late: a training run needs none of their libraries
            result: int | None = cli.load_command(COMMANDS[arguments.command]).run(settings, arguments)
        except ModuleNotFoundError as error:
            raise SettingsError(f"{arguments.command} needs {error.name}: pip install 'offnormal[evaluate]'") from None
        return result
    job = cli.load_command("training.run.job")
    trained = job.run(settings)
    print(job.told(trained))
    if arguments.json:
        print(json.dumps(trained))
    return 0 if trained["role"] else GATE_REFUSED


if __name__ == "__main__":
    sys.exit(main())

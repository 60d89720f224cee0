"""The common parts of both command lines: the first help for a new user, one-line errors, and exit codes."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Final, NoReturn

from worker import __version__
from worker.errors import OffnormalError
from worker.native.imports import interruptible
from worker.observability import log
from worker.observability.terminal_text import printable
from worker.settings import CONFIG_FILE, Settings, describe, load

EXITS: Final = {
    0: "done",
    1: "anything else that went wrong",
    2: "wrong setting or usage",
    3: "training ran and the gate refused the model",
    4: "Kafka unreachable within the start-up limit, access denied, or a topic missing",
    5: "no model, or not enough data",
    130: "interrupted",
}


class Parser(argparse.ArgumentParser):
    """A parser whose errors say where to find help."""

    def error(self, message: str) -> NoReturn:
        """Exit with the message, and with where to find help."""
        super().error(f"{message}; `{self.prog} --help` shows the usage")


def parser(program: str, description: str, begin: Sequence[tuple[str, str]]) -> Parser:
    """Return a parser of `worker` or `training`, whose help shows a new user how to start.

    `begin` are the first things to do, in order: the arguments of the program, and their result.
    """
    script = f"offnormal-{program}"  # completion works only for this script: a shell cannot complete `python -m`
    is_script = os.path.basename(sys.argv[0]) == script or "--completion" in sys.argv
    prefix = "offnormal-" if is_script else "python -m "
    width = max(len(words) for words, _ in begin)
    steps = "\n".join(f"  {prefix}{words:<{width}}   {help_text}" for words, help_text in begin)
    exits = "\n".join(f"  {code:<5} {help_text}" for code, help_text in EXITS.items())
    command_line = Parser(
        prog=f"{prefix}{program}",
        description=f"{description}\n\nbegin here:\n{steps}",
        epilog=f"settings: OFFNORMAL_ variables override the YAML file in {CONFIG_FILE}, which overrides defaults;\n"
        f"  {prefix}{program} --help-settings shows them all\n\n"
        f"exit codes:\n{exits}\n\n"
        "an error ends with a code in brackets; `python -m worker explain CODE` explains it\n\n"
        "documentation: docs/index.md in the repository; `make docs` builds it as a site",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command_line.add_argument(
        "--help-settings", action=_HelpSettings, nargs=0, help="all settings, with their defaults"
    )
    command_line.add_argument("--version", action="version", version=f"offnormal {__version__}")
    command_line.add_argument(
        "--completion",
        action=_Completion,
        choices=["bash", "zsh", "tcsh"],
        help="print the completion script of a shell, to be sourced",
    )
    return command_line


class _HelpSettings(argparse.Action):
    """The option that prints the settings and exits."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, values: object, option: object = None
    ) -> None:
        print(describe())
        parser.exit()


class _Completion(argparse.Action):
    """The option that prints the completion script and exits."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, values: object, option: object = None
    ) -> None:
        import shtab  # noqa: PLC0415 only who asks for it waits for it

        print(shtab.complete(parser, str(values)))
        parser.exit()


def run(main: Callable[[Settings], int | None]) -> int:
    """Load the settings and run `main`; turn what goes wrong into a line on standard error and an exit code."""
    try:
        settings = load()
        log.configure(settings.log)
        return main(settings) or 0
    except OffnormalError as error:
        print(f"offnormal: {printable(error)} [{error.code}]", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def load_command(name: str) -> ModuleType:
    """Import a command's module. Ctrl-C during the import ends the process at once."""
    with interruptible():
        return import_module(name)


def on_stop(stop: Callable[[], None]) -> None:
    """Call `stop` at SIGTERM and SIGINT. A second signal ends the process at once."""

    def handle(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)

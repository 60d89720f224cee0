"""What both command lines share: the help a lost user starts from, errors as one readable line, and exit codes."""

import argparse
import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Final, NoReturn

from worker import __version__, log
from worker.errors import OffnormalError
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
    """Says what to do next when it does not understand."""

    def error(self, message: str) -> NoReturn:
        super().error(f"{message}; `{self.prog} --help` says what there is")


def parser(program: str, description: str, begin: Sequence[tuple[str, str]]) -> Parser:
    """A parser whose help is where a lost user starts; of `worker` or `training`.

    `begin` are the first things to do, in order: the arguments of `worker` or `training`, and what comes of it.
    """
    script = f"offnormal-{program}"  # completion is for that: a shell cannot complete `python -m`
    is_script = os.path.basename(sys.argv[0]) == script or "--completion" in sys.argv
    prefix = "offnormal-" if is_script else "python -m "
    width = max(len(words) for words, _ in begin)
    steps = "\n".join(f"  {prefix}{words:<{width}}   {told}" for words, told in begin)
    exits = "\n".join(f"  {code:<5} {told}" for code, told in EXITS.items())
    made = Parser(
        prog=f"{prefix}{program}",
        description=f"{description}\n\nbegin here:\n{steps}",
        epilog=f"settings: OFFNORMAL_ variables, over the YAML file that {CONFIG_FILE} names, over defaults;\n"
        f"  {prefix}{program} --help-settings shows them all\n\n"
        f"exit codes:\n{exits}\n\n"
        "documentation: docs/ of the repository; begin with docs/index.md, or `make docs` for a site",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--help-settings", action=_HelpSettings, nargs=0, help="all settings, with their defaults")
    made.add_argument("--version", action="version", version=f"offnormal {__version__}")
    made.add_argument(
        "--completion", action=_Completion, choices=["bash", "zsh", "tcsh"], help="for a shell, to source"
    )
    return made


class _HelpSettings(argparse.Action):
    """Prints them, and ends."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, values: object, option: object = None
    ) -> None:
        print(describe())
        parser.exit()


class _Completion(argparse.Action):
    """Prints it, and ends."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, values: object, option: object = None
    ) -> None:
        import shtab  # noqa: PLC0415 only who asks for it waits for it

        print(shtab.complete(parser, str(values)))
        parser.exit()


def run(main: Callable[[Settings], int | None]) -> int:
    """Loads the settings, runs `main`, and turns what goes wrong into a line on standard error and an exit code."""
    try:
        settings = load()
        log.configure(settings.log)
        return main(settings) or 0
    except OffnormalError as error:
        print(f"offnormal: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def load_command(name: str) -> ModuleType:
    """Imports a command's module. Ctrl-C meanwhile ends the process at once: raised as an exception in the midst of
    some library's import, it can be caught there, and the command would go on. Nothing that an import makes is garbage:
    nobody looks for it, then or later.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.freeze()
        gc.enable()
        signal.signal(signal.SIGINT, before)


def on_stop(stop: Callable[[], None]) -> None:
    """Calls `stop` at SIGTERM and SIGINT; a second signal ends the process at once."""

    def handle(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)

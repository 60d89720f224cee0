"""What both command lines share: settings in the help, errors as one readable line, and exit codes."""

import argparse
import gc
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType

from worker import __version__, log
from worker.errors import OffnormalError
from worker.settings import Settings, describe, load


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """A parser whose help shows every setting with its default and environment name; of `worker` or `training`."""
    script = f"offnormal-{program}"  # completion is for that: a shell cannot complete `python -m`
    is_script = os.path.basename(sys.argv[0]) == script or "--completion" in sys.argv
    made = argparse.ArgumentParser(
        prog=script if is_script else f"python -m {program}",
        description=description,
        epilog=describe() + "\n\nexit codes: 0 done; 2 wrong setting or usage; 3 training ran and the gate refused;\n"
        "4 Kafka unreachable or access denied; 5 no model or not enough data; 1 anything else",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"offnormal {__version__}")
    made.add_argument(
        "--completion", action=_Completion, choices=["bash", "zsh", "tcsh"], help="for a shell, to source"
    )
    return made


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

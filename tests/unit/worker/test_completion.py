"""Completion for shells."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


@pytest.mark.parametrize(("program", "commands"), [("worker", "topics label leave"), ("training", "models report")])
def test_bash_completes_commands(program: str, commands: str) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    script = f"offnormal-{program}"
    told = subprocess.run(
        [str(BIN / script), "--completion", "bash"], capture_output=True, text=True, check=True
    ).stdout
    asked = (
        f'{told}\nCOMP_WORDS=({script} "")\nCOMP_CWORD=1\n$(complete -p {script} | sed "s/.*-F \\([^ ]*\\).*/\\1/")\n'
    )
    done = subprocess.run(["bash"], input=asked + 'echo "${COMPREPLY[@]}"', capture_output=True, text=True)
    assert set(commands.split()) <= set(done.stdout.split()), done.stderr

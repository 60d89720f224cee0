"""A file is read in one sitting, a function on one page; compiled loops may be longer."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [file for room in ("worker", "training") for file in sorted((ROOT / room).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 400, 60


@pytest.mark.parametrize("file", [*FILES, *TESTS], ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_is_not_too_long(file: Path) -> None:
    assert file.read_text().count("\n") <= LINES_OF_A_FILE


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_function_is_too_long(file: Path) -> None:
    functions = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]
    for function in functions:
        if "compiled" not in {ast.unparse(each).split("(")[0] for each in function.decorator_list}:
            lines = (function.end_lineno or 0) - function.lineno + 1
            assert lines <= LINES_OF_A_FUNCTION, f"{function.name} has {lines} lines"

"""Limits of size and style that no other tool checks; what exceeds them today is listed by name, to be taken off."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
FILES = sorted(SRC.rglob("*.py"))
MOST_FILES, MOST_LINES, MOST_CODE = 15, 300, 50

LONG_FILES = {
    "sharcs/training/trainer.py",
}
LONG_FUNCTIONS = set()
SKIP_FORMATTING = {
    "sharcs/benchmark/memory.py",
}


def name_of(path):
    """Name a file or a folder as the lists do."""
    return str(path.relative_to(SRC))


def text_of(path):
    """Read a file."""
    return path.read_text(encoding="utf-8")


def lines_with_code(source):
    """Number the lines on which there is more than a comment."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {line for token in tokens if token.type not in layout for line in range(token.start[0], token.end[0] + 1)}


def code_of_functions(source):
    """Count the lines of code of every function, without signature and docstring, by name."""
    with_code = lines_with_code(source)
    counts = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            ranges = [range(statement.lineno, statement.end_lineno + 1) for statement in body]
            count = sum(len(with_code.intersection(lines)) for lines in ranges)
            counts[node.name] = max(count, counts.get(node.name, 0))  # methods may share a name
    return counts


def test_what_is_counted():
    source = 'def f(\n    a,\n    b,\n):\n    """Say."""\n    # why\n\n    c = (\n        a\n    )\n    return c\n'
    assert code_of_functions(source) == {"f": 4}


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=name_of)
def test_folders_are_small(folder):
    files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= MOST_FILES


def test_files_are_short():
    long = {name_of(path) for path in FILES if len(text_of(path).splitlines()) > MOST_LINES}
    assert long <= LONG_FILES


def test_functions_are_short():
    counts = {
        (name_of(path), name): count for path in FILES for name, count in code_of_functions(text_of(path)).items()
    }
    assert {function for function, count in counts.items() if count > MOST_CODE} <= LONG_FUNCTIONS


def test_the_formatter_formats():
    skipping = {name_of(path) for path in FILES if re.search(r"#\s*fmt:\s*(skip|off)", text_of(path))}
    assert skipping <= SKIP_FORMATTING


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_package_does_not_import_itself_or_the_init_of_its_folder(path):
    package = ".".join(path.parent.relative_to(SRC).parts)
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module not in {package, "sharcs"}
        if isinstance(node, ast.Import):
            assert not {alias.name for alias in node.names} & {package, "sharcs"}


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[len(SRC.parts)] != "sharcs_cli"], ids=name_of)
def test_errors_of_the_library_name_no_options(path):
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, ast.Raise):
            texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            assert not [text for text in texts if re.search(r"(^|[\s'`])--", str(text))]

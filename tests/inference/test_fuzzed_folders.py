"""Damaged descriptions of models and exports: the command works all the same, or says in a line what is wrong.

``SHARCS_FUZZ=1000 pytest tests/inference/test_fuzzed_folders.py`` tries so many, drawn anew.
"""

import copy
import json
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.cli import error_message, sharcs
from helpers.fuzz import fuzzed

RECORDS = Path(__file__).parents[1] / "records"
FILES = [("plus-2", "config.json"), ("plus-2", "training.json"), ("export-1", "sharcs.json"), ("plus", "config.json")]
CONTENTS = {(folder, name): (RECORDS / folder / name).read_text(encoding="utf-8") for folder, name in FILES}

LEAVES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4)
WORDS = st.sampled_from(
    ["", "0", "full", "width-25", "bert", "sharcs", "gelu", "..", "a/b", "single_label_classification"]
)
VALUES = st.recursive(
    LEAVES | WORDS | st.integers(-2, 3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)


def places(value, path=()):
    """List the paths to all members of a JSON value."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in members for place in places(inner, (*path, key)))]


@st.composite
def damaged(draw):
    """Damage a file: a value replaced, left out or added, or bytes cut off or replaced."""
    file = draw(st.sampled_from(FILES))
    text = CONTENTS[file]
    kind = draw(st.sampled_from(["replace", "replace", "replace", "leave out", "add", "cut", "bytes"]))
    if kind in ("cut", "bytes"):
        raw, at = text.encode(), draw(st.integers(0, len(text) - 1))
        middle = b"" if kind == "cut" else draw(st.binary(max_size=3)) + raw[at + 1 :]
        return file, raw[:at] + middle
    content = copy.deepcopy(json.loads(text))
    *above, last = draw(st.sampled_from(places(content)[1:]))
    inner = content
    for key in above:
        inner = inner[key]
    if kind == "leave out":
        del inner[last]
    elif kind == "add" and isinstance(inner, dict):
        inner[draw(WORDS)] = draw(VALUES)
    else:
        inner[last] = draw(VALUES)
    return file, json.dumps(content).encode()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Copy the models, big files as links, and make a table."""
    home = tmp_path_factory.mktemp("damaged")
    for name in {folder for folder, _ in FILES}:
        (home / name).mkdir()
        for path in (RECORDS / name).iterdir():
            (home / name / path.name).symlink_to(path)
    (home / "rows.csv").write_text("text,label\nit is fine,good\nit is dull,bad\n", encoding="utf-8")
    return home


@fuzzed(few=12)
@given(damaged())
def test_a_damaged_description_is_one_line_or_does_no_harm(folders, damage):
    (folder, name), content = damage
    path = folders / folder / name
    path.unlink()
    path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            words = ("--data", folders / "rows.csv", "--output", folders / "out.csv", "--text-column", "text")
            run = sharcs("predict", folders / folder, *words, "--scores")
        if run.code:
            error_message(run)
    finally:
        path.unlink()
        path.symlink_to(RECORDS / folder / name)
        (folders / "out.csv").unlink(missing_ok=True)

"""What the commands make of the recorded models: sub-networks, answers and policies exactly, floats within 1e-6."""

import json

import pytest

from records.make import HERE, MODELS, record


def differences(found, expected, place=""):
    """List the places where two plain values differ: floats by more than rounding, everything else at all."""
    if isinstance(expected, dict) and isinstance(found, dict):
        missing = [f"{place}/{name}: only there before" for name in expected.keys() - found.keys()]
        inner = [
            differences(found[name], expected[name], f"{place}/{name}") for name in expected.keys() & found.keys()
        ]
        return missing + [line for lines in inner for line in lines]
    if isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        inner = [
            differences(*pair, f"{place}/{index}") for index, pair in enumerate(zip(found, expected, strict=True))
        ]
        return [line for lines in inner for line in lines]
    if isinstance(expected, float) and isinstance(found, float):
        return [] if found == pytest.approx(expected, rel=1e-6, abs=1e-6) else [f"{place}: {found} after {expected}"]
    return [] if found == expected else [f"{place}: {found!r} after {expected!r}"]


@pytest.mark.parametrize("name", MODELS)
def test_commands_answer_as_recorded(name, tmp_path):
    expected = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    found = json.loads(json.dumps(record(HERE / name, tmp_path)))
    assert differences(found, expected) == []

"""Plain values, such as JSON holds, compared place by place."""

import pytest


def differences(found, expected, place="", *, tolerance=1e-6):
    """List the places where two plain values differ: floats by more than rounding, everything else at all."""
    if isinstance(expected, dict) and isinstance(found, dict):
        missing = [f"{place}/{name}: only there before" for name in expected.keys() - found.keys()]
        inner = [
            differences(found[name], expected[name], f"{place}/{name}", tolerance=tolerance)
            for name in expected.keys() & found.keys()
        ]
        return missing + [line for lines in inner for line in lines]
    if isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        inner = [
            differences(*pair, f"{place}/{index}", tolerance=tolerance)
            for index, pair in enumerate(zip(found, expected, strict=True))
        ]
        return [line for lines in inner for line in lines]
    if isinstance(expected, float) and isinstance(found, float):
        return (
            []
            if found == pytest.approx(expected, rel=tolerance, abs=tolerance)
            else [f"{place}: {found} after {expected}"]
        )
    return [] if found == expected else [f"{place}: {found!r} after {expected!r}"]

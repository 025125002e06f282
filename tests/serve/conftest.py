"""A bound for each test of the service: what waits for something that doesn't come fails, and doesn't hang."""

import signal
from pathlib import Path

import pytest

MOST_SECONDS = 90
HERE = Path(__file__).parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    if HERE not in item.path.parents:  # a hook is asked about every test, wherever it stands
        return (yield)

    def late(*_):
        pytest.fail(f"{item.name}: goes on after {MOST_SECONDS} s", pytrace=True)

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(MOST_SECONDS)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

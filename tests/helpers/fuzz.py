"""How many examples a fuzzer tries: few in the ordinary run, or what SHARCS_FUZZ says, drawn anew each time."""

import os

from hypothesis import HealthCheck, settings

ASKED = int(os.environ.get("SHARCS_FUZZ", "0"))


def fuzzed(few):
    """Decorate a test that is to try ``few`` examples in the ordinary run."""
    return settings(
        max_examples=ASKED or few,
        derandomize=not ASKED,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )

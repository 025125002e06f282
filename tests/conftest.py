"""What every test needs: quiet loading, one thread, repeatable examples, and a plain checkpoint of each family."""

from collections import Counter

import pytest
import torch
import transformers
from hypothesis import settings

from helpers import media
from helpers.encoders import ENCODERS, RARE, SIBLINGS, save_plain

torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()
settings.register_profile("sharcs", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("sharcs")


# Of few tests that take long: begun first, so that two workers end at about the same time.
LONG_FILES = (
    "test_minilm.py",
    "test_wheel.py",
    "test_benchmark.py",
    "test_runtime.py",
    "test_records.py",
    "test_streaming.py",
    "test_export.py",
    "test_cli_export.py",
    "test_choice.py",
    "test_blocks.py",
    "test_media_training.py",
    "test_import.py",
)


# Run for every family all the same: what a family is there for.
OF_EVERY_FAMILY = (
    "test_full_width_is_the_plain_model_bit_for_bit",
    "test_full_width_is_the_plain_model_bit_for_bit_before_and_after_saving",
    "test_a_sub_network_is_a_plain_narrow_model_with_sliced_weights",
    "test_the_copies_give_what_the_slices_give",
    "test_cost_is_what_the_flop_counter_counts",
)


def pytest_itemcollected(item):
    """Leave families out of CI whose layers are those of another one, or which few use."""
    if not hasattr(item, "callspec") or item.originalname in OF_EVERY_FAMILY:
        return
    names = [value for value in item.callspec.params.values() if isinstance(value, str)]
    if set(names) & {*SIBLINGS, *RARE, *media.SIBLINGS}:
        item.add_marker(pytest.mark.extended)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Run long files first, then those with most tests; see --no-loadscope-reorder in the Makefile."""
    counts = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.name not in LONG_FILES, -counts[item.path], str(item.path)))


@pytest.fixture(scope="session", params=ENCODERS)
def family(request):
    """Name of an encoder family; a test that takes it runs once for each."""
    return request.param


@pytest.fixture(scope="session")
def plain_path(family, tmp_path_factory):
    """Directory of a plain, tiny Hugging Face classifier of the family. Not to be written to."""
    return save_plain(family, tmp_path_factory.mktemp(family) / "plain")


@pytest.fixture(scope="session")
def bert_path(tmp_path_factory):
    """Directory of a plain, tiny BERT classifier, for what doesn't depend on the family."""
    return save_plain("bert", tmp_path_factory.mktemp("only") / "plain")

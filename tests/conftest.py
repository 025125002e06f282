"""What every test needs: quiet loading, one thread, repeatable examples, and a plain checkpoint of each family."""

import pytest
import torch
import transformers
from hypothesis import settings

from helpers.encoders import ENCODERS, save_plain

torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()
settings.register_profile("sharcs", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("sharcs")


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

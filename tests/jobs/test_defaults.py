"""What a training does where its job does not say."""

from pathlib import Path

import pytest

from sharcs.jobs.defaults import with_defaults
from sharcs.jobs.train import TrainingJob
from sharcs_runtime.scores import MULTI_LABEL, REGRESSION, SINGLE_LABEL


def job(**given):
    return TrainingJob(data="a.csv", output=Path("out"), **given)


@pytest.mark.parametrize(
    ("given", "kind", "front", "widths"),
    [
        ({}, SINGLE_LABEL, ("recurrent", "compact"), (1.0,)),
        ({"images": True}, SINGLE_LABEL, ("compact",), (1.0,)),
        ({}, MULTI_LABEL, (), (0.25, 1.0)),
        ({"regression": True}, REGRESSION, (), (0.25, 1.0)),
        ({"recipe": "paper"}, SINGLE_LABEL, (), (0.25, 1.0)),
        ({"window": 2}, SINGLE_LABEL, (), (0.25, 1.0)),
        ({"widths": (0.5, 1.0)}, SINGLE_LABEL, (), (0.5, 1.0)),
        ({"widths": (1.0,), "front": ("lexical",)}, SINGLE_LABEL, ("lexical",), (1.0,)),
        ({"widths": (1.0,), "front": ("auto",)}, SINGLE_LABEL, ("lexical", "recurrent", "compact"), (1.0,)),
        ({"widths": (1.0,), "front": ("auto",), "images": True}, SINGLE_LABEL, ("compact",), (1.0,)),
    ],
)
def test_sub_networks_are_those_that_inputs_can_have(given, kind, front, widths):
    found = with_defaults(job(**given), kind)
    assert (found.front, found.widths) == (front, widths)
    # With those in front, the number of rows decides how often they are passed over.
    assert found.epochs == (None if front else 10 if found.recipe == "paper" else 5)
    assert found.learning_rate == (1e-4 if front else 2e-5 if found.recipe == "paper" else 5e-5)


def test_what_is_given_stays():
    found = with_defaults(job(epochs=3, learning_rate=0.5), SINGLE_LABEL)
    assert (found.epochs, found.learning_rate) == (3, 0.5)

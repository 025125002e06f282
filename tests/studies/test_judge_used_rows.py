"""A training of the tokens that occur against one of the whole table."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from judge import training
from judge.data import tokenised
from judge.training import Fit, Schedule
from judge.used_rows import UsedRows, only_used_rows

TEXTS = ["a fine film", "a dull plot, and long", "fine", "what an awful end of a book that was fine", "dull", "so so"]
ROWS = tokenised(TEXTS * 12, None, np.array([1, 0, 1, 0, 0, 1] * 12), 32)


class Tiny(nn.Module):
    """Tokens and places, averaged, through a layer with dropout."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.word_embeddings = nn.Embedding(30522, 8, padding_idx=0)
        self.position_embeddings = nn.Embedding(32, 8)
        self.out = nn.Linear(8, 2)

    def forward(self, inputs):  # noqa: D102
        ids = inputs["input_ids"]
        hidden = self.word_embeddings(ids) + self.position_embeddings(torch.arange(ids.shape[1]))
        return self.out(F.dropout(torch.tanh(hidden), 0.1, self.training).mean(1))


def trained(state=None, stop_at=None):
    model, steps = Tiny(), []
    labels = torch.from_numpy(ROWS.labels)

    def loss(indices, _epochs):
        steps.append(1)
        if len(steps) == stop_at:
            raise KeyboardInterrupt
        return F.cross_entropy(model(ROWS.batch(indices)), labels[indices])

    def score():
        model.train(False)
        with torch.inference_mode():
            return -float(F.cross_entropy(model(ROWS.batch(range(6))), labels[:6]))

    fitted = Fit(model, ROWS, loss, score, seed=1, schedule=Schedule(0.01, epochs=3), state=state)
    return model, fitted


@pytest.fixture
def no_decay(monkeypatch):
    monkeypatch.setattr(training, "WEIGHT_DECAY", 0.0)


@pytest.mark.usefixtures("no_decay")
def test_it_is_the_training_of_the_whole_table(monkeypatch):
    mine, fitted = trained()
    scores = fitted.run()["scores"]
    monkeypatch.setattr(training, "only_used_rows", lambda *_: contextlib.nullcontext())
    whole, fitted = trained()
    assert scores == pytest.approx(fitted.run()["scores"], rel=1e-5)
    before = Tiny().state_dict()
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[name], value, rtol=1e-4, atol=1e-6)
        assert not torch.equal(value, before[name])
    assert isinstance(mine.word_embeddings, nn.Embedding)


def test_tokens_that_do_not_occur_stay():
    model, fitted = trained()
    fitted.run()
    used = np.unique(np.concatenate([[0], *ROWS.ids]))
    same = (model.word_embeddings.weight == Tiny().word_embeddings.weight).all(1).numpy()
    assert same[0]  # padding
    assert not same[used[1:]].any()
    assert np.delete(same, used).all()


def test_an_interrupted_one_goes_on_to_the_same_result_and_leaves_the_whole_table(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SECONDS_BETWEEN_STATES", -1)
    model, fitted = trained()
    fitted.run()
    stopped, fitted = trained(tmp_path / "state", stop_at=5)
    with pytest.raises(KeyboardInterrupt):
        fitted.run()
    assert stopped.word_embeddings.weight.shape == (30522, 8)
    again, fitted = trained(tmp_path / "state")
    fitted.run()
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_tokens_of_other_rows_are_looked_up_in_the_whole_table():
    whole = nn.Embedding(50, 4)
    small = UsedRows(whole, np.array([0, 7, 9]))
    tokens = torch.tensor([[7, 3], [0, 49]])
    assert torch.equal(small(tokens), whole(tokens))
    small.weight.data[1] = 1.0
    assert small(tokens)[0, 0].tolist() == [1.0] * 4
    assert torch.equal(small(tokens)[1], whole(tokens)[1])
    assert small.put_back() is whole
    assert whole.weight[7].tolist() == [1.0] * 4


def test_a_table_that_is_not_trained_stays_whole():
    model = Tiny()
    model.word_embeddings.weight.requires_grad_(False)
    with only_used_rows(model, ROWS):
        assert isinstance(model.word_embeddings, nn.Embedding)

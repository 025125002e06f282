"""Runtimes that the judge times answer what the network answers, in the rows' order."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from judge import runtimes
from judge.data import tokenised
from judge.networks import Network, over

TEXTS = ["fine", "a dull plot, and a long one at that", "so so", "what an awful end", "a fine film"]


@pytest.fixture(scope="module")
def rows():
    return tokenised(TEXTS, None, np.zeros(len(TEXTS), np.int64), 32)


def test_batches_hold_every_row_once_and_no_more_tokens_than_they_may(rows, monkeypatch):
    monkeypatch.setattr(runtimes, "BATCH_TOKENS", 20)
    made = runtimes.by_length(rows)
    assert sorted(row for batch in made for row in batch) == list(range(len(TEXTS)))
    for batch in made:
        assert len(batch) == 1 or len(batch) * max(len(rows.ids[i]) for i in batch) <= 20


@pytest.mark.parametrize("readout", [pytest.param("cls", marks=pytest.mark.extended), "mean"])
def test_a_graph_answers_as_the_network(rows, tmp_path, monkeypatch, readout):
    torch.manual_seed(0)
    network = Network(2, readout).train(False)
    expected = over(rows, network)
    monkeypatch.setattr(runtimes, "BATCH_TOKENS", 20)
    np.testing.assert_allclose(runtimes.torch_plain(network)(rows), expected, atol=1e-5)
    graph = runtimes.to_onnx(network, tmp_path / "plain.onnx")
    np.testing.assert_allclose(runtimes.onnx_runtime(graph, 1)(rows), expected, atol=1e-4)
    np.testing.assert_allclose(
        runtimes.onnx_runtime(runtimes.optimised(graph, network), 1)(rows), expected, atol=1e-3
    )
    small = runtimes.onnx_runtime(runtimes.dynamic_int8(graph), 1)(rows)
    assert np.abs(small - expected).max() < 0.5

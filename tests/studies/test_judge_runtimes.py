"""Runtimes that the judge times answer what the network answers, in the rows' order."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import run_seconds
import seconds_tables
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
    assert not any(module.training for module in network.modules())
    np.testing.assert_allclose(runtimes.onnx_runtime(graph, 1)(rows), expected, atol=1e-4)
    np.testing.assert_allclose(
        runtimes.onnx_runtime(runtimes.optimised(graph, network), 1)(rows), expected, atol=1e-3
    )
    small = runtimes.onnx_runtime(runtimes.dynamic_int8(graph), 1)(rows)
    assert np.abs(small - expected).max() < 0.5


def test_runtimes_begin_with_texts(rows):
    seen = []

    def run(given):
        seen.append(given)
        return np.zeros((len(given), 2), np.float32)

    emptied = replace(rows, ids=[[]] * len(rows), types=[[]] * len(rows))
    run_seconds.from_texts(run)(emptied)
    assert seen[0].ids == rows.ids
    assert seen[0].types == rows.types


def test_figures_are_medians_of_the_rounds_after_the_first():
    times = run_seconds.Times(
        [9.0, 2.0, 4.0, 3.0], [9.0, 5.0, 5.0, 8.0], [[9.0, 9.0], [0.1, 0.3], [0.2, 0.5], [0.3, 0.4]]
    )
    found = times.figures(60)
    assert found == pytest.approx(
        {
            "rounds": 3,
            "texts_a_second": 20.0,
            "in_batches_a_second": 12.0,
            "one_text_ms": 300.0,
            "one_text_p99_ms": 1000 * np.quantile([0.2, 0.4], 0.99),
        }
    )
    alone = run_seconds.Times([6.0], [3.0], [[0.5, 0.5]])  # one that did not go on
    assert alone.figures(60)["texts_a_second"] == 10.0


def test_those_that_go_on_are_timed_in_turns(rows, monkeypatch):
    monkeypatch.setattr(run_seconds, "SINGLES", 1)
    monkeypatch.setattr(run_seconds, "ROUNDS", 2)
    order = []
    made = {name: lambda given, name=name: order.append((name, len(given))) for name in "abc"}
    times = run_seconds.measure(made, lambda found: ["a", "c"] if set(found) == set(made) else [], rows)
    whole = [name for name, count in order if count == len(rows)]
    assert whole[::2] == ["a", "b", "c", "a", "c", "c", "a"]  # each twice: at once, and as one batch
    assert [len(times[name].many) for name in "abc"] == [3, 1, 3]


@pytest.mark.parametrize(
    ("lost", "error", "safe"), [(0.1, 0.1, True), (0.3, 0.3, False), (0.15, 0.05, False), (0, 0, True)]
)
def test_a_runtime_loses_nothing_if_it_surely_loses_little(lost, error, safe):
    assert run_seconds.loses_nothing({"lost": lost, "lost_error": error}) == safe


def test_answers_are_compared_with_those_of_the_network():
    plain, named, truth = np.array([0, 1, 1, 0]), np.array([0, 1, 0, 1]), np.array([0, 1, 1, 1])
    found = run_seconds.compared(named, plain, truth)
    assert (found["accuracy"], found["lost"], found["agrees"]) == (75.0, 0.0, 50.0)
    assert found["lost_error"] == pytest.approx(100 * np.std([0, 0, 1, -1]) / 2)


def seconds_of(rate, one, lost=0.0, **more):
    rates = {"texts_a_second": rate, "in_batches_a_second": rate / 2, "one_text_ms": one, "one_text_p99_ms": 2 * one}
    return {**rates, "rounds": 5, "lost": lost, "lost_error": 0.1, "loses_nothing": lost < 0.2, **more}


def test_ours_stands_beside_the_fastest_that_loses_nothing():
    made = {
        "plain": seconds_of(100.0, 10.0),
        "int8": seconds_of(400.0, 4.0),
        "careless": seconds_of(900.0, 1.0, lost=1.0),
        "dropped": seconds_of(800.0, 1.0, rounds=1),
        "ours, int8, nothing lost": seconds_of(1200.0, 2.0, lost=0.3, cost=0.07),
    }
    content = {"set": "sst2", "runtimes": made, "failed": {"other": "ImportError: x"}}
    lines = seconds_tables.ours([content]).splitlines()[2:]
    assert lines == ["| sst2 | int8, nothing lost | 7 | 0.3 ± 0.2 | 3.0 | 3.0 | 0.50 | 0.50 |"]
    assert "| int8 | 400 (0.0) |" in seconds_tables.runtimes([content])
    assert "ours" not in seconds_tables.runtimes([content])
    assert "| sst2 | other | ImportError: x |" in seconds_tables.failed([content])

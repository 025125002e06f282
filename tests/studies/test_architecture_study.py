"""The study of architectures: what chance gives, by brute force, and encoders that are compressed."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoConfig, AutoTokenizer

from helpers.three_networks import three_networks

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import architecture_study
import architecture_tables


@pytest.mark.parametrize("known", [(1.0, 2.0, 4.0), (3.0, 1.0, 2.0)], ids=["alike", "misleading"])
@pytest.mark.parametrize("cost", [0.02, 0.1, 0.3, 0.9])
def test_chance_is_the_best_mix_of_two_networks_by_the_rows_that_choose(cost, known):
    choosing, test = three_networks(1, known=known), three_networks(2)
    costs = test.costs.mean(0) / test.full_costs.mean()
    rated, mine = (of.way_right[:, :3].mean(0) for of in (choosing, test))
    best = (-1.0, None)
    for one, other in itertools.product(range(3), repeat=2):
        for share in np.linspace(0, 1, 2001):
            if (1 - share) * costs[one] + share * costs[other] <= cost + 1e-9:
                value = (1 - share) * rated[one] + share * rated[other]
                best = max(best, (value, (1 - share) * mine[one] + share * mine[other]))
    assert architecture_study.by_chance(choosing, test, cost) == pytest.approx(best[1], abs=2e-3)


def test_policies_are_compared_with_the_full_network_of_the_same_rows():
    choosing, test = three_networks(1), three_networks(2)
    found = architecture_study.compared(choosing, test)
    assert found["full"] == pytest.approx((test.full_predictions == test.labels).mean())
    assert found["0.1"]["cost"] < 0.13
    assert found["0.5"]["lost"] <= found["0.05"]["lost"]
    assert found["0.1"]["lost"] < found["0.1"]["lost_by_chance"]
    assert 0 < found["0.1"]["error"] < 5


def test_encoders_are_written_with_a_tokenizer(tmp_path):
    folder = architecture_study.encoder_folder("3-layers", "sick", tmp_path / "three")
    assert AutoConfig.from_pretrained(folder).num_hidden_layers == 3
    assert AutoTokenizer.from_pretrained(folder)("a film").input_ids[0] == 101
    assert architecture_study.encoder_folder("int8", "sick", tmp_path / "none") == architecture_study.minilm_path()


def test_the_table_compares_each_encoder_with_its_own_full_network():
    entry = {"lost": 0.5, "error": 0.1, "lost_by_chance": 2.0, "cost": 0.1}
    run = {"set": "sick", "encoder": "minilm", "flops": 200.0, "full": 0.9}
    run |= dict.fromkeys((*architecture_tables.BUDGETS, "nothing lost"), entry)
    small = run | {"encoder": "3-layers", "flops": 100.0}
    rows = [line.split(" | ") for line in architecture_tables.encoders([small, run]).splitlines()[2:]]
    assert [row[1:3] for row in rows] == [["minilm", "100"], ["3-layers", "50"]]
    assert rows[0][4] == "0.5 ± 0.2 (2.0)"
    assert rows[0][-1] == "0.5 ± 0.2 at 10% |"

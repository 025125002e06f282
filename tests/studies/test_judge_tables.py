"""The judge's tables say what its summary says."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from judge import tables


def entry(value, half=0.5, cost=0.1, **more):
    return {"value": value, "low": value - half, "high": value + half, "cost": cost, **more}


@pytest.fixture
def content():
    at = {"0.1": entry(1.25, cost=0.12, ways=["gru"]), "0.5": None}
    return {
        "sets": {"sst2": ["0"], "sick": ["0", "1"]},
        "lost": {"PICK": at, "ours": {"0.1": entry(-0.2), "0.5": entry(0.0)}, "absent": {"0.1": None, "0.5": None}},
        "ahead": {"PICK": at},
        "adds": {"sst2": {"ours, static": at, "ours, random": at}},
        "verdicts": {"PICK": {"0.1": {"sst2": "ahead", "sick": "behind"}, "0.5": {}}},
        "reference": {"sst2": [90.04, 89.96]},
        "by_set": {"sst2": {"ours": at, "PICK": at}},
        "matthews": {
            "cola": {"reference": 0.5, "ours": {"0.1": 0.4, "0.5": 0.45}, "PICK": {"0.1": 0.3, "0.5": None}}
        },
        "hours": {"gru": {"sst2": 0.5, "sick": 1.5}},
        "settings": {"reference": {"sst2": {"readout": "mean", "rate": 1e-4}}},
    }


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_values_stand_with_their_intervals_and_what_does_not_fit_is_a_hyphen(content):
    head, _, *rows = cells(tables.lost(content))
    assert head == ["points lost, 2 sets", "10%", "50%"]
    assert rows == [["PICK", "1.2 ± 0.5", "-"], ["ours", "-0.2 ± 0.5", "0.0 ± 0.5"]]
    assert cells(tables.spent(content))[2] == ["PICK", "12.0", "-"]


def test_verdicts_count_sets(content):
    assert cells(tables.verdicts(content))[2] == ["PICK", "1 / 1 of 2", "-"]


def test_ahead_stands_before_behind(content):
    content["verdicts"]["PICK"]["0.1"] = {"sst2": "ahead", "sick": "ahead", "cola": "behind", "mrpc": "level"}
    assert cells(tables.verdicts(content))[2] == ["PICK", "2 / 1 of 4", "-"]


@pytest.fixture
def frontier():
    ours = {"0.02": entry(4.0), "0.05": entry(2.5), "0.1": entry(1.1), "0.25": entry(0.2), "0.5": entry(-0.2)}
    sets = {"sst2": ours, "r52": {budget: entry(0.3) for budget in ours}}
    peers = {"tfidf": {"0.02": entry(8.8)}, "static": {"0.02": None}}
    return {
        "lost": {"ours": ours},
        "topics": {"ours": {budget: entry(0.6) for budget in ours}},
        "by_set": {name: {"ours": of_set, **peers} for name, of_set in sets.items()},
    }


def test_what_was_asked_stands_beside_what_is_reached(frontier):
    rows = {row[0]: row[1:] for row in cells(tables.asked(frontier))}
    assert rows["50%"] == ["-0.2 ± 0.5 (0: reached)", "0.5", "r52 0.3 ± 0.5, reached", "0.6 ± 0.5 (0: not reached)"]
    assert rows["10%"] == [
        "1.1 ± 0.5 (1: not reached)",
        "3",
        "sst2 1.1 ± 0.5, reached",
        "0.6 ± 0.5 (0.4: not reached)",
    ]
    assert rows["2%"] == ["4.0 ± 0.5", "-", "sst2 4.0 ± 0.5", "0.6 ± 0.5 (1.5: reached)"]
    frontier["by_set"]["sst2"]["ours"]["0.05"] = entry(5.6)
    assert cells(tables.asked(frontier))[3][3] == "sst2 5.6 ± 0.5, not reached: sst2"


def test_the_front_page_has_a_few_ways(frontier):
    frontier["sets"] = {"sst2": ["0"]}
    frontier["lost"] |= {
        way: {"0.1": entry(2)} | dict.fromkeys(frontier["lost"]["ours"]) for way in tables.HEADLINE if way != "ours"
    }
    frontier["lost"]["other"] = frontier["lost"]["ours"]
    head, _, first, second, *others = cells(tables.headline(frontier))
    assert head == ["points lost, 1 sets", "2%", "5%", "10%", "25%", "50%"]
    assert first == ["ours", "4.0 ± 0.5", "2.5 ± 0.5", "1.1 ± 0.5", "0.2 ± 0.5", "-0.2 ± 0.5"]
    assert second[0].startswith("PICK")
    assert len(others) == len(tables.HEADLINE) - 2


def test_what_is_recovered_is_of_the_lexical_peer_s_gap(frontier):
    rows = cells(tables.recovered(frontier))[2:]
    assert rows == [["sst2", "8.8", "1.1", "88%"], ["r52", "8.8", "0.3", "97%"]]
    frontier["by_set"]["r52"]["tfidf"]["0.02"] = entry(-0.1)
    assert cells(tables.recovered(frontier))[3][-1] == "-"


def test_variants_stand_in_points_that_ours_is_ahead():
    content = {"sets": {"a": [], "b": []}, "lost": {"ours": {"0.1": entry(1)}}, "worse": {"x": {"0.1": entry(0.7)}}}
    assert cells(tables.ablations(content)) == [
        ["points that ours is ahead, 2 sets", "10%"],
        ["---", "---"],
        ["x", "0.7 ± 0.5"],
    ]


def test_every_table_can_be_laid_out(content):
    for make in tables.TABLES.values():
        rows = cells(make(content))
        assert len({len(row) for row in rows}) == 1
    assert cells(tables.hours(content))[-1] == ["all", "", "", "2.0"]
    assert cells(tables.references(content))[2][:3] == ["sst2", "90.0, 90.0", "mean, 0.0001"]
    assert cells(tables.correlations(content))[2:] == [
        ["reference", "0.500", "0.500"],
        ["ours", "0.400", "0.450"],
        ["PICK", "0.300", "-"],
    ]


def test_nothing_is_lost_where_the_interval_ends_below_half_a_point(content):
    content["lost"]["ours"] = {"0.1": entry(0.1), "0.5": entry(-0.1)}
    assert cells(tables.losing_nothing(content))[2:] == [["PICK", "-"], ["ours", "50%"]]


def test_the_tenth_that_goes_on_stands_with_chance_and_the_oracle():
    entry = {"ours": 2.0, "chance": 0.5, "oracle": 5.5, "share": 0.104, "way": 0.3}
    assert cells(tables.escalated({"escalated": {"sst2": {"compact": entry}}}))[2:] == [
        ["sst2, compact first", "10%", "0.5", "2.0", "5.5", "30%"]
    ]


def test_rules_of_choice_are_means_over_the_sets():
    def of(lost):
        values = {key: [lost, 0.1] for key in tables.ASKED} | {"nothing lost": [lost / 2, 0.05 * lost]}
        return [{"rows": 100, "rule": "by counts", "lost and cost": values}]

    rows = cells(tables.halves({"pairs": {"a, seed 0": of(1.0), "b, seed 0": of(3.0)}}))
    assert rows[2] == ["100 rows, 2 sets: by counts", *["2.0"] * len(tables.ASKED), "1.0 at 10%"]

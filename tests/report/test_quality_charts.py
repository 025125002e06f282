"""F1, confusions and coverage on a report's page: the numbers of evaluate, and their drawings."""

import json

import pytest
from matplotlib.colors import to_hex

from helpers.cli import succeeds
from records.make import HERE, ROWS
from sharcs.evaluation.plot import COLORS, drawing
from sharcs.evaluation.quality import ClassQuality, Qualities, Quality
from sharcs.evaluation.reliability import CoveragePoint
from sharcs.report.drawings import confusion_figure, coverage_figure
from sharcs.report.quality import quality_charts


def numbers(chart):
    return [[cell.value for cell in row if cell.value is not None] for row in chart.rows]


def made_up(counts):
    """Make up answers of as many classes as the matrix has rows."""
    classes = [ClassQuality(f"class {index}", sum(row), 0.5, 0.5, index / 100) for index, row in enumerate(counts)]
    curve = [CoveragePoint(0.2, 1.0, 0.5), CoveragePoint(0.6, 0.5, 0.75), CoveragePoint(0.9, 0.1, None)]
    quality = Quality(0.5, 0.1, classes, counts, curve)
    return Qualities(quality, quality)


def charts(counts):
    with drawing():
        return {chart.kind: chart for chart in quality_charts(made_up(counts))}


def test_a_matrix_of_few_classes_is_drawn_cell_by_cell():
    counts = [[8, 2, 0], [1, 0, 1], [0, 0, 0]]
    with drawing():
        figure = confusion_figure(["a" * 50, "b", "c"], counts)
    axes = figure.axes[0]
    cells = [patch for patch in axes.patches if patch.get_gid() == "cell"]
    assert [round(cell.get_alpha(), 3) for cell in cells] == [0.336, 0.144, 0.24, 0.24]
    assert [to_hex(cell.get_facecolor()) for cell in cells] == [COLORS["routed"], *[COLORS["chosen"]] * 3]
    words = [word.get_text() for word in axes.texts]
    assert words[:3] == ["1", "2", "3"]
    assert words[3:6] == ["1: " + "a" * 26 + "…", "80", "20"]
    assert numbers(charts(counts)["confusion"]) == counts
    assert "4 of 12 answers" in charts(counts)["confusion"].description


def test_of_many_classes_the_most_frequent_confusions_are_listed():
    counts = [[int(row == column) * 9 for column in range(20)] for row in range(20)]
    counts[3][4], counts[5][1] = 2, 7
    chart = charts(counts)["confusion"]
    assert [[cell.text for cell in row] for row in chart.rows] == [
        ["class 5", "class 1", "7"],
        ["class 3", "class 4", "2"],
    ]
    assert "class 5, answered as class 1, 7 times" in chart.description
    lowest = charts(counts)["f1"]
    assert [row[0].text for row in lowest.rows] == [f"class {index}" for index in range(20)]
    assert "15 of 20" in lowest.note


def test_coverage_is_drawn_where_there_is_an_accuracy():
    curve = [CoveragePoint(0.2, 1.0, 0.5), CoveragePoint(0.6, 0.5, 0.75), CoveragePoint(0.9, 0.1, None)]
    with drawing():
        (line,) = coverage_figure({"routed": curve}).axes[0].lines
    assert list(zip(*line.get_data(), strict=True)) == [(100, 50), (50, 75)]


def test_no_matrix_of_one_class_or_of_sets():
    assert "confusion" not in charts([[5]])
    quality = Quality(0.5, 0.1, made_up([[1]]).routed.classes, None, [CoveragePoint(0.2, 1.0, 0.5)])
    with drawing():
        assert [chart.kind for chart in quality_charts(Qualities(quality, quality))] == ["f1", "coverage"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a recorded model, and what evaluate says."""
    folder = tmp_path_factory.mktemp("page")
    succeeds("report", HERE / "plus", "--data", ROWS, "--output", folder / "report.html")
    succeeds("evaluate", HERE / "plus", "--data", ROWS, "--json", folder / "e.json")
    return folder


def test_the_page_holds_the_numbers_of_evaluate(page):
    text = (page / "report.html").read_text(encoding="utf-8")
    quality = json.loads((page / "e.json").read_text())["quality"]
    for each in quality["routed"]["classes"]:
        for name in ("precision", "recall", "f1"):
            assert f'<data value="{each[name]}">' in text
    for row in quality["routed"]["confusion"]:
        cells = "".join(f'<td><data value="{count}">{count}</data></td>' for count in row)
        assert cells in text
    assert all(f'<data value="{at["coverage"]}">' in text for at in quality["routed"]["coverage"])
    assert {f"report-{kind}.png" for kind in ("f1", "confusion", "coverage")} <= {p.name for p in page.iterdir()}

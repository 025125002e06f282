"""Bars, reliability and legends on matplotlib's artists, and their SVG within one page."""

import re
from html.parser import HTMLParser

import pytest
from matplotlib.colors import to_hex

from sharcs.evaluation.plot import COLORS, drawing
from sharcs.evaluation.reliability import Bin, Reliability
from sharcs.report.drawings import bar_figure, reliability_figure, svg, swatch


def bars_of(figure):
    return [patch for patch in figure.axes[0].patches if patch.get_gid() == "bar"]


def test_bars_are_as_long_as_their_values():
    figure = bar_figure([("a", 0.3), ("b", -0.1), ("c", 0.0)], ["30%", "-10%", "0%"], "chosen")
    axes, bars = figure.axes[0], bars_of(figure)
    assert axes.get_xlim() == (-0.1, 0.3)
    assert [bar.get_width() for bar in bars] == [0.3, -0.1]
    assert [bar.get_x() for bar in bars] == [0, 0]
    assert [to_hex(bar.get_facecolor()) for bar in bars] == [COLORS["chosen"], COLORS["oracle"]]
    assert [word.get_text() for word in axes.texts] == ["a", "30%", "b", "-10%", "c", "0%"]
    assert [list(line.get_xdata()) for line in axes.lines] == [[0, 0]] * 3  # where some are below it


def test_small_values_look_small_and_are_seen():
    assert bar_figure([("a", 0.01)], [""], "routed", least=0.05).axes[0].get_xlim() == (0, 0.05)
    assert bar_figure([("a", 0.01)], [""], "routed").axes[0].get_xlim() == (0, 0.01)
    (bar,) = bars_of(bar_figure([("a", 1.0), ("b", 0.0)], ["", ""], "routed"))
    assert bar.get_width() == 1
    (tiny,) = bars_of(bar_figure([("a", -1e-9)], [""], "routed", least=1.0))
    assert tiny.get_width() == pytest.approx(-1 / 400)
    assert bars_of(bar_figure([("a", 0.0)], [""], "routed")) == []


def test_words_of_bars_do_not_overlap_on_a_telephone():
    rows = [(f"{number} {'m' * 200}", 0.1) for number in range(3)] + [("short", 0.2)]
    with drawing():
        figure = bar_figure(rows, ["12.3%, 7 inputs"] * 4, "routed")
        figure.draw_without_rendering()
        boxes = [word.get_window_extent() for word in figure.axes[0].texts]
        bars = [bar.get_window_extent() for bar in bars_of(figure)]
    label, value = boxes[6], boxes[7]
    assert (label.x0, value.x1) == (pytest.approx(0), pytest.approx(560))
    assert 1.75 * (label.width + value.width) < 560  # the style sheet's scale
    for number, bar in enumerate(bars):
        assert all(box.y0 > bar.y1 for box in boxes[2 * number : 2 * number + 2])
        assert all(not bar.overlaps(box) for box in boxes)
    assert all(len(word.get_text()) <= 30 for word in figure.axes[0].texts)


def result(*bins):
    return Reliability(
        0.0,
        [Bin(0.0, 1.0, rows, score if rows else None, accuracy if rows else None) for rows, score, accuracy in bins],
    )


def test_reliability_s_marks_are_its_bins():
    routed, full = result((90, 0.9, 0.8), (0, 0, 0), (10, 0.3, 0.4)), result((50, 0.8, 0.7), (0, 0, 0), (50, 0.2, 0))
    axes = reliability_figure(routed, full).axes[0]
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 100), (0, 100))
    lines = {line.get_gid(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}
    assert lines == {
        "series ideal": [(0, 0), (100, 100)],
        "series full": [(80, 70), (20, 0)],
        "series routed": [(90, 80), (30, 40)],
    }
    marks = {marks.get_gid(): marks for marks in axes.collections}
    assert marks["mark routed"].get_offsets().tolist() == [[90, 80], [30, 40]]
    assert marks["mark full"].get_offsets().tolist() == [[80, 70], [20, 0]]
    large, small = marks["mark routed"].get_sizes()
    equal = marks["mark full"].get_sizes()
    assert large > equal[0] == equal[1] > small > 36


class Tags(HTMLParser):
    """Collects tags and words, and notes what stays open."""

    @classmethod
    def of(cls, text):
        """Read all of a text."""
        page = cls()
        page.tags, page.words, page.open = [], [], []
        page.feed(text)
        return page

    def handle_starttag(self, tag, attrs):
        """Enter."""
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        """Leave."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Note a word."""
        self.words += [data] if data.strip() else []


def drawn(salt="one", label="a"):
    with drawing():
        figure = reliability_figure(result((90, 0.9, 0.8)), result((90, 0.9, 0.7)))
        return (
            svg(bar_figure([(label, 0.3), ("b", -0.1)], ["#1d5fbf", ""], "chosen"), f"bars {salt}"),
            svg(figure, salt),
            svg(swatch(figure.axes[0].lines[1]), f"swatch {salt}"),
        )


def test_drawings_have_the_page_s_colors_and_no_names_in_common():
    text = "".join(drawn() + drawn("two"))
    page = Tags.of(text)
    assert page.open == []
    names = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(names) == len(set(names)) > 3
    used = {attrs["href"].removeprefix("#") for tag, attrs in page.tags if tag == "use"}
    assert used <= set(names)
    assert "url(" not in text
    assert not {tag for tag, _ in page.tags} - {"g", "path", "defs", "use", "text"}
    styles = " ".join(attrs.get("style", "") for _, attrs in page.tags)
    assert not re.findall("#[0-9a-f]+", styles)
    assert {"--chosen", "--oracle", "--ink", "--routed", "--page"} <= set(re.findall("var[(](.*?)[)]", styles))
    classes = {attrs["class"] for tag, attrs in page.tags if "class" in attrs}
    assert {"bar", "bar-label", "bar-value", "series full", "mark routed", "x-axis", "y-title"} <= classes


@pytest.mark.parametrize(
    "label", ['</text><script a="b">', "fill: #1d5fbf", "$x_1$", "新聞", "a\ufffeb", "&amp; xlink:href"]
)
def test_words_stay_words(label):
    bars, *_ = drawn(label=label)
    page = Tags.of(bars)
    assert page.words[:2] == [label, "#1d5fbf"]
    assert "script" not in {tag for tag, _ in page.tags}


def test_the_same_figure_gives_the_same_drawing():
    assert drawn() == drawn()

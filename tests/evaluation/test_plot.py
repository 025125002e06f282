"""What is drawn: points, axes, colours and words of matplotlib's artists, and what drawing leaves alone."""

import subprocess
import sys
import threading
from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib import image
from matplotlib.colors import to_rgb

from sharcs.benchmark.plot import benchmark_figure
from sharcs.benchmark.results import BenchmarkReport, BenchmarkRow
from sharcs.errors import InputError
from sharcs.evaluation.accuracy import (
    AccuracyReport,
    CurvePoint,
    FullPoint,
    OraclePoint,
    RandomPoint,
    RoutedPoint,
    WidthPoint,
)
from sharcs.evaluation.plot import COLORS, curve_figure, drawing, png, save_picture


def made_up(costs=(0.3, 0.5, 1.0), threshold=None):
    """Make up what accuracy_report finds, of some widths; the curve turns back at its end."""
    path = [(costs[0] + 0.1 * step, 0.85 + 0.005 * step) for step in (0, 2, 1, 5, 8, 7)]
    return AccuracyReport(
        samples=100,
        metric="accuracy",
        full=FullPoint(0.9, 1e6),
        routed=RoutedPoint(0.87, 4.5e5, 0.45),
        widths=[WidthPoint(cost, 0.8 + 0.1 * cost, cost, 1 / len(costs), None) for cost in costs],
        random=RandomPoint(0.8),
        oracle=OraclePoint(0.96, 0.35),
        curve=[CurvePoint(0.0, threshold, cost, accuracy) for cost, accuracy in path],
        quality=None,
    )


def places(points):
    return [(pytest.approx(100 * at.flops_ratio), pytest.approx(100 * at.accuracy)) for at in points]


def series_of(figure):
    """Find the lines of a figure by style."""
    lines = [line for line in figure.axes[0].lines if line.get_gid()]
    return {line.get_gid().removeprefix("series "): line for line in lines}


def test_the_curve_s_points_are_the_report_s_numbers():
    report = made_up()
    figure = curve_figure(report)
    points = {style: list(zip(*line.get_data(), strict=True)) for style, line in series_of(figure).items()}
    right = figure.axes[0].get_xlim()[1]
    assert points.keys() == {"full", "oracle", "random", "routed", "chosen"}
    assert points["routed"] == places(sorted(report.curve, key=lambda at: at.flops_ratio))
    assert points["random"] == places(report.widths)
    assert points["chosen"] == places([report.routed])
    assert points["oracle"][:2] == places([report.widths[0], report.oracle])
    assert points["oracle"][2] == (right, points["oracle"][1][1])
    assert points["full"] == [(0, 90), (right, 90)]
    names = [word.get_text() for word in figure.axes[0].texts]
    assert names == ["0.3", "0.5", "1"]


@pytest.mark.parametrize(
    ("limit", "xs", "ys"), [({"cost": 0.6}, (60, 60), None), ({"value": 0.7}, None, (70, 70)), (None, None, None)]
)
def test_a_calibration_s_limit_is_a_line_across(limit, xs, ys):
    figure = curve_figure(made_up(), "Agreement", limit)
    axes, lines = figure.axes[0], series_of(figure)
    assert ("limit" in lines) == (limit is not None)
    if limit is not None:
        assert tuple(lines["limit"].get_xdata()) == pytest.approx(xs or axes.get_xlim())
        assert tuple(lines["limit"].get_ydata()) == pytest.approx(ys or axes.get_ylim())
        assert axes.get_ylim()[0] < 70 or ys is None
    assert axes.get_ylabel() == "Agreement, %"


def test_axes_begin_at_no_cost_and_hold_everything_with_round_ticks():
    for costs in ((0.3, 0.5, 1.0), (0.02, 1.3), (0.999, 1.0)):
        figure = curve_figure(made_up(costs))
        axes = figure.axes[0]
        assert axes.get_xlim()[0] == 0
        for line in series_of(figure).values():
            for values, (low, high) in zip(line.get_data(), (axes.get_xlim(), axes.get_ylim()), strict=True):
                assert low <= min(values) <= max(values) <= high
        figure.draw_without_rendering()
        for axis in (axes.xaxis, axes.yaxis):
            low, high = axis.get_view_interval()
            shown = [
                (at, word.get_text()) for at, word in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
            ]
            inside = [(at, text) for at, text in shown if low <= at <= high]
            assert 2 <= len(inside) <= 8
            for at, text in inside:
                assert float(text) == pytest.approx(at)
                assert len(text) <= 5


@pytest.mark.parametrize("costs", [(0.3, 0.5, 1.0), (0.97, 0.98, 0.99, 1.0), (0.05, 0.06, 0.07, 0.08, 0.09, 1.0)])
def test_words_do_not_overlap(costs):
    with drawing():
        figure = curve_figure(made_up(costs))
        figure.draw_without_rendering()
        axes = figure.axes[0]
        words = [*axes.texts, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = axis.get_view_interval()
            labels = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
            words += [word for at, word in labels if low <= at <= high]
        boxes = [word.get_window_extent() for word in words]
    assert 1 <= len(axes.texts) <= len(costs)
    assert not [pair for pair in combinations(range(len(boxes)), 2) if boxes[pair[0]].overlaps(boxes[pair[1]])]
    edge = figure.bbox
    assert all(edge.x0 <= box.x0 and box.x1 <= edge.x1 + 20 and edge.y0 <= box.y0 for box in boxes)


def test_series_can_be_told_apart():
    lines = series_of(curve_figure(made_up(), limit={"cost": 0.6})).values()
    looks = [(to_rgb(line.get_color()), line.is_dashed(), line.get_marker()) for line in lines]
    assert len(set(looks)) == len(looks) == 6
    names = ("routed", "chosen", "oracle", "random", "ink")
    for one, two in combinations([to_rgb(COLORS[name]) for name in names], 2):
        assert sum(abs(a - b) for a, b in zip(one, two, strict=True)) > 0.3


def test_colors_are_those_of_the_style_sheet():
    sheet = (Path(sys.modules["sharcs"].__file__).parent / "report/templates/style.css").read_text(encoding="utf-8")
    light, dark = sheet.split("@media (prefers-color-scheme: dark)", 1)
    for name, color in COLORS.items():
        assert f"--{name}: {color};" in light
        assert f"--{name}: #" in dark


def benchmark_report():
    ratio = dict.fromkeys((1, 8, 32, 128), 0.5)
    names = ("full network", "routed, $x_1$")
    return BenchmarkReport([BenchmarkRow(name, 0.9, 9.0, 1.0, 2.0, ratio, 0.5, 100.0, ratio) for name in names], "")


def test_pictures_are_pictures_and_leave_no_more(tmp_path):
    save_picture(lambda: curve_figure(made_up(threshold=0.5)), tmp_path / "curve.png", "accuracy, $x_1$")
    save_picture(lambda: benchmark_figure(benchmark_report()), tmp_path / "speed.png", "rows.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"curve.png", "speed.png"}
    for path in tmp_path.iterdir():
        pixels = image.imread(path)
        assert min(pixels.shape[:2]) > 200
        assert pixels.std() > 0.05


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def full_disk(path, _):
        path.touch()
        raise OSError(28, "No space left on device")

    def draw():
        return curve_figure(made_up())

    with pytest.raises(InputError, match="can't be written"):
        save_picture(draw, tmp_path / "nowhere" / "x.png", "title")
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(InputError, match=r"x\.png: can't be written \(.*No space left.*\); make room"):
        save_picture(draw, tmp_path / "x.png", "title")
    assert not list(tmp_path.iterdir())


def picture(report):
    with drawing():
        return png(curve_figure(report), "title")


def test_drawing_takes_no_setting_of_the_user_s_and_changes_none():
    expected = picture(made_up())
    with mpl.rc_context({"font.size": 30, "xtick.labelsize": 30, "axes.facecolor": "red", "legend.fontsize": 5}):
        before = dict(mpl.rcParams)
        assert picture(made_up()) == expected
        assert dict(mpl.rcParams) == before


def test_threads_draw_what_one_thread_draws():
    reports = [made_up((0.2 + 0.05 * number, 1.0)) for number in range(4)]
    expected, drawn = [picture(report) for report in reports], {}
    before = dict(mpl.rcParams)
    threads = [
        threading.Thread(target=lambda number=number: drawn.update({number: picture(reports[number])}))
        for number in range(len(reports))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [drawn[number] for number in range(len(reports))] == expected
    assert dict(mpl.rcParams) == before


def test_matplotlib_is_imported_to_draw_without_pyplot_and_without_complaints(tmp_path):
    program = """if True:
        import sys
        import sharcs.report.page
        from sharcs.evaluation.plot import curve_figure, save_picture
        assert "matplotlib" not in sys.modules
        from types import SimpleNamespace
        at = SimpleNamespace(flops_ratio=0.5, accuracy=0.5, escalation_threshold=None, width=1.0)
        report = SimpleNamespace(curve=[at], widths=[at], routed=at, oracle=at, full=at)
        save_picture(lambda: curve_figure(report), sys.argv[1], "title")
        assert "matplotlib.pyplot" not in sys.modules
    """
    # No directory can be made within a file, by nobody.
    environment = {"HOME": "/dev/null", "PYTHONPATH": ":".join(filter(None, sys.path))}
    run = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "x.png"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert (tmp_path / "x.png").stat().st_size > 1000

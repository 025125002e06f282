"""The page of ``sharcs report`` in a real browser: what it loads, fits, names and says, in light and dark."""

import json

import pytest

from helpers.browser import chromium, requests, serve, show
from helpers.cli import succeeds, toy_rows, toys_fixture, write_csv  # noqa: F401

PAGES = ("labelled", "bare")
LONG = "Donaudampfschifffahrtsgesellschaftskapitaensmuetze" * 8


@pytest.fixture(scope="module")
def home(toys, tmp_path_factory):
    """Make a page with labels and one without, of texts and groups that are hard to lay out; and evaluate."""
    folder = tmp_path_factory.mktemp("pages")
    rows = [{**row, "source": f"{LONG[:60]} {number % 40}"} for number, row in enumerate(toy_rows(120, seed=2))]
    rows[0]["text"], rows[1]["text"] = LONG, "<script>document.title = 'stolen'</script><img src=//example.org/x.png>"
    data = write_csv(folder / "data.csv", rows)
    bare = write_csv(folder / "bare.csv", [{"text": row["text"], "source": row["source"]} for row in rows])
    for name, file in zip(PAGES, (data, bare), strict=True):
        options = ("--data", file, "--output", folder / f"{name}.html", "--group-column", "source")
        succeeds("report", toys.model, *options)
    succeeds("evaluate", toys.model, "--data", data, "--json", folder / "evaluation.json")
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Start one browser for all tests."""
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def server(home):
    """Serve the pages."""
    with serve(home) as (address, asked):
        yield address, asked


@pytest.mark.parametrize("name", PAGES)
def test_no_request_leaves_the_page_and_nothing_complains(browser, server, name):
    address, asked = server
    requests(browser)
    browser.get_log("browser")
    asked.clear()
    show(browser, f"{address}/{name}.html", 1280)
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert [url for url in requests(browser) if not url.startswith("data:")] == [f"{address}/{name}.html"]
    assert asked == [f"/{name}.html"]
    assert browser.execute_script("return performance.getEntriesByType('resource').map(one => one.name)") == []
    assert browser.get_log("browser") == []
    assert browser.title == "Routing report: model"


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_the_page_fits(browser, server, name, width):
    show(browser, f"{server[0]}/{name}.html", width)
    for opened in (False, True):
        if opened:
            browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
        wide, seen = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide <= seen == width
    # Nothing juts out but what scrolls in its own box.
    jutting = browser.execute_script(
        """return [...document.querySelectorAll('body *')].filter(one => !one.closest('.scroll table')
             && one.getBoundingClientRect().right > innerWidth + 0.5).map(one => one.outerHTML.slice(0, 99))"""
    )
    assert jutting == []
    # Words in a chart stay readable, whatever its size, and in their place.
    heights, outside = browser.execute_script(
        """const boxes = [...document.querySelectorAll('.chart text')].map(one => one.getBoundingClientRect());
           return [boxes.map(box => box.height),
                   boxes.filter(box => box.left < 0 || box.right > innerWidth).length]"""
    )
    assert min(heights) >= 13
    assert outside == 0


def test_labels_and_values_of_bars_do_not_overlap(browser, server):
    for width in (360, 1280):
        show(browser, f"{server[0]}/labelled.html", width)
        gaps = browser.execute_script(
            """return [...document.querySelectorAll('.bar-label')].map(one =>
                 one.nextElementSibling.getBoundingClientRect().left - one.getBoundingClientRect().right)"""
        )
        assert len(gaps) > 20
        assert min(gaps) > 0


@pytest.mark.parametrize("name", PAGES)
def test_every_chart_has_a_name_and_a_description(browser, server, name):
    show(browser, f"{server[0]}/{name}.html", 1280)
    browser.execute_cdp_cmd("Accessibility.enable", {})
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    charts = [node for node in nodes if node.get("role", {}).get("value") in ("image", "img")]
    assert len(charts) == (9 if name == "labelled" else 5)
    for node in charts:
        assert len(node["name"]["value"]) > 10
        assert len(node["description"]["value"]) > 30
    # What the tree hides is decoration: as many drawings as there are entries of legends.
    drawings, legends = browser.execute_script(
        "return ['svg', '.legend li'].map(what => document.querySelectorAll(what).length)"
    )
    assert drawings == len(charts) + legends


def test_tables_hold_the_numbers_of_evaluate(browser, server, home):
    found = json.loads((home / "evaluation.json").read_text())
    show(browser, f"{server[0]}/labelled.html", 1280)

    def numbers(kind):
        return browser.execute_script(
            """return [...document.querySelectorAll(`#${arguments[0]}-table tbody tr`)].map(row =>
                 [...row.querySelectorAll('data')].map(one => Number(one.value)))""",
            kind,
        )

    curve = numbers("curve")
    routed, oracle = found["routed"], found["oracle"]
    assert curve[0] == [routed["flops_ratio"], routed["accuracy"]]
    assert curve[1] == [1, found["full"]["accuracy"]]
    assert curve[2] == [routed["flops_ratio"], found["random"]["accuracy"]]
    assert curve[3] == [oracle["flops_ratio"], oracle["accuracy"]]
    assert curve[4:6] == [[width["flops_ratio"], width["accuracy"]] for width in found["widths"]]
    assert curve[6:] == [[point["flops_ratio"], point["accuracy"]] for point in found["curve"]]
    keys = ("share", "flops_ratio", "accuracy", "accuracy_routed")
    assert numbers("shares") == [[width[key] for key in keys] for width in found["widths"]]
    # Sums over the other tables come to the same.
    full, routed_accuracy = found["full"]["accuracy"], routed["accuracy"]
    both, _, routed_only, full_only, _ = (row[0] for row in numbers("agreement"))
    assert (both + full_only, both + routed_only) == (pytest.approx(full), pytest.approx(routed_accuracy))
    for kind in ("classes", "groups"):
        rows = numbers(kind)
        assert sum(row[0] for row in rows) == 120
        assert sum(row[0] * row[1] for row in rows) / 120 == pytest.approx(full)
        assert sum(row[0] * row[2] for row in rows) / 120 == pytest.approx(routed_accuracy)
    bins = [[0, 0], [0, 0]]
    for row in numbers("reliability"):
        places = iter(row)
        for total in bins:
            rows = next(places)
            if rows:
                next(places)
                total[0], total[1] = total[0] + rows, total[1] + rows * next(places)
    assert [total[0] for total in bins] == [120, 120]
    assert [total[1] / 120 for total in bins] == [pytest.approx(routed_accuracy), pytest.approx(full)]


def test_marks_lie_where_the_numbers_say(browser, server, home):
    found = json.loads((home / "evaluation.json").read_text())
    show(browser, f"{server[0]}/labelled.html", 1280)
    # A scale from two ticks of each axis, and the middle of the chosen point's mark.
    ticks, chosen = browser.execute_script(
        """const chart = document.querySelector('#curve-chart .chart');
           const place = one => { const box = one.getBBox(); return [box.x + box.width / 2, box.y + box.height / 2] };
           const words = [...chart.querySelectorAll('text')].filter(one => /^[0-9.]+$/.test(one.textContent)
             && !one.closest('.width-name'));
           return [words.map(one => [Number(one.textContent), one.style.textAnchor, ...place(one)]),
                   place(chart.querySelector('.series.chosen'))]"""
    )
    for axis, anchor, key in ((2, "middle", "flops_ratio"), (3, "end", "accuracy")):
        first, *_, last = (tick for tick in ticks if tick[1] == anchor)
        unit = (last[axis] - first[axis]) / (last[0] - first[0])
        value = first[0] + (chosen[axis - 2] - first[axis]) / unit
        assert value == pytest.approx(100 * found["routed"][key], abs=0.6)


def test_keys_open_a_table(browser, server):
    from selenium.webdriver.common.keys import Keys

    show(browser, f"{server[0]}/labelled.html", 1280)
    summary = browser.find_element("css selector", "#curve-chart summary")
    for _ in range(30):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        if browser.switch_to.active_element == summary:
            break
    assert browser.switch_to.active_element == summary
    assert browser.execute_script("return getComputedStyle(arguments[0]).outlineStyle", summary) == "solid"
    summary.send_keys(Keys.ENTER)
    assert browser.find_element("css selector", "#curve-table").is_displayed()


def luminance(color):
    """Relative luminance as the Web Content Accessibility Guidelines define it."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_lines_and_bars_stand_out(browser, server, dark):
    show(browser, f"{server[0]}/labelled.html", 1280, dark=dark)
    page, *colors = browser.execute_script(
        """const color = (one, what) => getComputedStyle(one)[what].match(/[0-9.]+/g).slice(0, 3).map(Number);
           return [color(document.body, 'backgroundColor'),
             ...[...document.querySelectorAll('.series > path')].map(one => color(one, 'stroke')),
             ...[...document.querySelectorAll('.bar path, .series use, .mark use')].map(one => color(one, 'fill'))]"""
    )
    behind = luminance([part / 255 for part in page])
    assert (behind < 0.1) == dark
    assert len(colors) > 20
    for color in colors:
        low, high = sorted((behind, luminance([part / 255 for part in color])))
        assert (high + 0.05) / (low + 0.05) >= 3


@pytest.mark.parametrize("dark", [pytest.param(False, marks=pytest.mark.extended), True], ids=["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(browser, server, name, dark):
    from axe_core_python.selenium import Axe

    show(browser, f"{server[0]}/{name}.html", 1280 if dark else 360, dark=dark)
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    found = Axe().run(browser)
    assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
    assert len(found["passes"]) > 20

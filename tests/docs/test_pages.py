"""README and docs: links, the map of the folders, and a site that builds strictly and loads nothing from outside."""

import json
import os
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
# What a browser fetches by itself: not <a>, which a reader follows.
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_to_files_of_the_repository(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), f"{page}: {target}"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 9000


def test_a_page_says_what_it_is_for_first():
    for page in PAGES:
        if page.parent != ROOT:
            heading, sentence = [line for line in page.read_text(encoding="utf-8").splitlines() if line][:2]
            assert heading.startswith("# "), page
            assert sentence.startswith("This page "), page


def test_the_map_names_every_folder_of_src_once():
    text = (ROOT / "docs" / "contributing" / "map.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `(src/[^`]*)` \|", text, re.M)
    files = [path for path in (ROOT / "src").rglob("*") if path.suffix in (".py", ".html", ".css")]
    folders = {str(path.parent.relative_to(ROOT)) for path in files}
    assert sorted(named) == sorted(folders)


def test_paths_that_pages_name_exist():
    named = re.compile(r"`((?:src|tests|benchmarks|tools|docs)/[\w./-]+)`")
    missing = {
        f"{page.relative_to(ROOT)}: {path}"
        for page in PAGES
        for path in named.findall(page.read_text(encoding="utf-8"))
        if not (ROOT / path).exists()
    }
    assert not missing


class Fetches(HTMLParser):
    """Collects what a page makes a browser fetch."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        """Note the addresses of a start tag."""
        attributes = dict(attrs)
        fetches = tag != "link" or attributes.get("rel") not in ("canonical", "prev", "next", "alternate")
        if tag in FETCHED and fetches:
            self.addresses.append(attributes.get(FETCHED[tag]) or "")


@pytest.fixture(scope="module")
def site():
    """Take the site that ``make docs`` has built; build it strictly where something is newer."""
    pytest.importorskip("mkdocs")
    built = ROOT / "site" / "index.html"
    sources = [ROOT / "mkdocs.yml", *(ROOT / "docs").rglob("*.*"), *(ROOT / "src").rglob("*.py")]
    if not built.exists() or built.stat().st_mtime < max(source.stat().st_mtime for source in sources):
        # Not --quiet: what is not logged is not counted by --strict.
        command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
        run = subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True)
        assert run.returncode == 0, run.stderr.decode()
    return built.parent


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) >= 30
    for page in pages:
        parser = Fetches()
        parser.feed(page.read_text(encoding="utf-8"))
        assert parser.addresses
        assert not [address for address in parser.addresses if re.match(r"(?:\w+:)?//", address)], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style
    assert "sharcs predict" in (site / "reference" / "command-line.html").read_text(encoding="utf-8")
    api = (site / "reference" / "api.html").read_text(encoding="utf-8")
    assert "<!-- built" not in api
    assert "max_disagreement" in api
    assert api.count("Forces one sub-network for the whole batch") == 5  # by each class's forward
    assert ":class:" not in api


def test_the_tests_that_are_named_for_faults_exist():
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "results" / "soundness.md").read_text(encoding="utf-8"))
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    there = {name for source in sources for name in re.findall(r"^def (test_\w+)\(", source, re.M)}
    assert len(named) > 20
    assert set(named) <= there


def test_every_test_of_a_fault_was_seen_to_fail():
    table = tomllib.loads((ROOT / "tools" / "mutations.toml").read_text(encoding="utf-8"))
    found = json.loads((ROOT / "benchmarks" / "results" / "mutations.json").read_text(encoding="utf-8"))
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "results" / "soundness.md").read_text(encoding="utf-8")))
    assert named <= {re.split(r"::|\[", test)[1] for mutation in table.values() for test in mutation["tests"]}
    for name, mutation in table.items():
        for path, old, _ in mutation["edits"]:
            assert (ROOT / "src" / path).read_text(encoding="utf-8").count(old) == 1, name
        assert found[name]["outcome"] == "seen", name
        assert {part: found[name][part] for part in ("edits", "tests")} == mutation, name

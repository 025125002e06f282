"""Calibrate a trained network, make its report, and take a picture of the page with Chromium.

    python benchmarks/report_screenshot.py agnews OUT.png [--width 1280] [--height 1500] [--dark] [--whole]

The network is the one that quality_study.py trained on the set and left in --cache. It is calibrated, by 'sharcs
calibrate --max-disagreement 0.02', on rows of train that it wasn't trained on, and reported on the test rows. The
picture shows the top of the page, or with --whole all of it. Needs Debian's packages chromium and chromium-driver.
"""

from __future__ import annotations

import argparse
import base64
import csv
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from selenium import webdriver

from common import DATA, test_file
from quality_study import CACHE, ROWS
from sharcs.data.texts import load_texts

SWITCHES = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
)


def photograph(page: Path, picture: Path, width: int, height: int, dark: bool, whole: bool) -> None:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    with tempfile.TemporaryDirectory() as profile:
        for switch in [*SWITCHES.split(), f"--user-data-dir={profile}"]:
            options.add_argument(switch)
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
            driver.get(page.resolve().as_uri())
            shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
        finally:
            driver.quit()
    picture.write_bytes(base64.b64decode(shot["data"]))


def unused_rows(name: str, file: Path) -> None:
    """Write the rows of train that the quality study leaves out."""
    source = str(DATA / name / "train.csv.gz")
    every, used = load_texts(source), load_texts(source, max_samples=ROWS[name], seed=0)
    seen = set(used.texts)
    with file.open("w", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(["text", "label"])
        writer.writerows(row for row in zip(every.texts, every.labels or [], strict=True) if row[0] not in seen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", choices=ROWS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=1500)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--whole", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model, rows, page = folder / "model", folder / "rows.csv", folder / "report.html"
        shutil.copytree(given.cache / f"{given.set}-sharcs+-0", model)
        unused_rows(given.set, rows)
        sharcs = [sys.executable, "-m", "sharcs_cli.app"]
        subprocess.run([*sharcs, "calibrate", model, "--data", rows, "--max-disagreement", "0.02"], check=True)
        subprocess.run([*sharcs, "report", model, "--data", test_file(given.set), "--output", page], check=True)
        photograph(page, given.out, given.width, given.height, given.dark, given.whole)


if __name__ == "__main__":
    main()

"""Take a picture of a model's report, with Chromium.

    python benchmarks/report_screenshot.py DIR DATA OUT.png [--width 1280] [--height 1500] [--dark] [--whole]

Makes the report with ``sharcs report`` in a temporary folder and photographs the top of the page, or with ``--whole``
all of it. Needs Debian's packages chromium and chromium-driver, and selenium.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from selenium import webdriver

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dir", type=Path)
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=1500)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--whole", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        command = [sys.executable, "-m", "sharcs.cli", "report", str(given.dir), "--data", given.data]
        subprocess.run([*command, "--output", str(page)], check=True)
        photograph(page, given.out, given.width, given.height, given.dark, given.whole)


if __name__ == "__main__":
    main()

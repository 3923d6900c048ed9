# SPDX-License-Identifier: GPL-2.0-only
"""Takes the screenshots of docs/pictures: the HTML report (light, dark, phone) and the stepper.

Needs Debian's chromium and chromium-driver and the extras test and tui:

    python scripts/make_screenshots.py [DIRECTORY]
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from selenium import webdriver

from septum.cli import main as septum
from septum.cli.step import story_walk
from septum.cli.stepper import Stepper

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "docs" / "examples"
DESIGN = "kick_first.py"
SCENARIO = "zap-running"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
    "--force-prefers-reduced-motion",
)


@dataclass(frozen=True, slots=True)
class Shot:
    """A picture of the report: its name, the window in CSS pixels, the colour scheme, and the
    element at its top."""

    name: str
    width: int
    height: int
    scheme: str = "light"
    at: str = ".story"


SHOTS = (
    Shot("report-light", 1280, 740),
    Shot("report-dark", 1280, 760, "dark"),
    Shot("report-phone", 390, 844, at=".controls"),
)
STEPPER = Shot("stepper", 1340, 800)


def browser(profile: str) -> webdriver.Chrome:
    """A headless Chromium.

    :raises SystemExit: there is none.
    """
    found, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if found is None or driver is None:
        raise SystemExit("no browser: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def take(chrome: webdriver.Chrome, shot: Shot, url: str, top: str = "") -> bytes:
    """The PNG of ``url``, scrolled to the element ``top``."""
    metrics: dict[str, Any] = {"width": shot.width, "height": shot.height}
    metrics |= {"deviceScaleFactor": 1, "mobile": shot.width < 500}
    scheme = [{"name": "prefers-color-scheme", "value": shot.scheme}]
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    chrome.get(url)
    if top:
        chrome.execute_script(f"document.querySelector('{top}').scrollIntoView()")
    return base64.b64decode(chrome.execute_cdp_cmd("Page.captureScreenshot", {})["data"])


async def stepper(file: Path) -> str:
    """The stepper where the rule of ``file`` breaks, as SVG."""
    app = Stepper(story_walk(file))
    async with app.run_test(size=(134, 38)) as pilot:
        await pilot.press("f")
        await pilot.pause()
        svg = app.export_screenshot()
    return re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.S)  # fonts from the network


def main() -> None:
    """Take all of them."""
    out = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / "docs" / "pictures"
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        report, svg = here / "report.html", here / "stepper.svg"
        os.chdir(EXAMPLES)  # no path of this machine in the pictures
        args = ["check", DESIGN, "-s", SCENARIO, "--save", name, "--html", str(report)]
        CliRunner().invoke(septum, args, catch_exceptions=False)
        svg.write_text(asyncio.run(stepper(next(here.glob("*.json")))))
        chrome = browser(str(here / "profile"))
        try:
            pictures = {s.name: take(chrome, s, report.as_uri(), s.at) for s in SHOTS}
            pictures["stepper"] = take(chrome, STEPPER, svg.as_uri())
        finally:
            chrome.quit()
    for picture, data in pictures.items():
        (out / f"{picture}.png").write_bytes(data)
        print(f"{picture}.png: {len(data) // 1024} KB")


if __name__ == "__main__":
    main()

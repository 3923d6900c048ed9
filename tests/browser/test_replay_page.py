# SPDX-License-Identifier: GPL-2.0-only
"""The page of `septum replay --html`, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_core_python.selenium import Axe
from click.testing import CliRunner
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from septum.cli import main

RECORDING = Path(__file__).parents[1] / "data" / "traces" / "linux-7.3-begin.trace"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("replay") / "replay.html"
    result = CliRunner().invoke(main, ["replay", str(RECORDING), "--html", str(out)])
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def page(chromium: Chrome, report: Path) -> Iterator[Chrome]:
    chromium.set_window_size(1400, 1000)
    chromium.get(report.as_uri())
    yield chromium
    errors = [e for e in chromium.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
    assert not errors, errors


def test_plots_report_and_changes_are_there(page: Chrome, report: Path) -> None:
    assert report.stat().st_size < 2_000_000
    assert len(page.find_elements(By.TAG_NAME, "svg")) >= 3
    text = page.find_element(By.TAG_NAME, "body").text
    assert "Changes to walk through" in text
    assert page.find_elements(By.CLASS_NAME, "story")


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_accessible_at_every_width_and_in_both_themes(page: Chrome, width: int, dark: bool) -> None:
    page.set_window_size(width, 900)
    page.execute_script(f"document.documentElement.dataset.theme = '{'dark' if dark else 'light'}'")
    violations = Axe().run(page)["violations"]
    assert not violations, [(v["id"], v["help"], v["nodes"][0]["html"][:200]) for v in violations]


@pytest.fixture(scope="module")
def long_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12,000 changes: the page holds 4,001 of them."""
    out = tmp_path_factory.mktemp("replay") / "long.html"
    file = str(RECORDING.with_name("linux-7.3-dirtylog.trace.xz"))
    result = CliRunner().invoke(main, ["replay", file, "--html", str(out), "--around", "12300"])
    assert result.exit_code == 0, result.output
    return out


def test_the_trees_at_any_event_of_a_long_recording(chromium: Chrome, long_report: Path) -> None:
    assert long_report.stat().st_size < 2_000_000
    chromium.set_window_size(1400, 1000)
    chromium.get(long_report.as_uri())
    story = chromium.find_element(By.CLASS_NAME, "story")
    text = story.get_attribute("textContent") or ""  # .text asks each of 4001 rows how it looks
    assert "4001 of" in text and "around line 12300" in text
    assert "Others: --around LINE" in text
    trees = story.find_element(By.CSS_SELECTOR, ".tree").text
    assert "table 1459db" in trees  # linked by line 24, long before the first step
    errors = [e for e in chromium.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
    assert not errors, errors

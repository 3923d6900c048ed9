# SPDX-License-Identifier: GPL-2.0-only
"""The HTML report of a replay, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_core_python.selenium import Axe
from click.testing import CliRunner
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from septum.cli import main

TRACE = Path(__file__).parents[1] / "data" / "traces" / "linux-7.3-begin.trace"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a recording in which an install is there twice."""
    folder = tmp_path_factory.mktemp("replay")
    lines = TRACE.read_text().splitlines(keepends=True)
    at = [n for n, text in enumerate(lines) if "spte_changed" in text and "level 1" in text][5]
    broken = folder / "broken.trace"
    broken.write_text("".join([*lines[: at + 1], *lines[at:]]))
    out = folder / "replay.html"
    result = CliRunner().invoke(main, ["replay", str(broken), "--html", str(out)])
    assert result.exit_code == 1, result.output
    return out


@pytest.fixture
def page(chromium: Chrome, written: Path) -> Iterator[Chrome]:
    chromium.set_window_size(1400, 1000)
    chromium.get(written.as_uri())
    yield chromium
    errors = [e for e in chromium.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
    assert not errors, errors


def test_plots_and_findings_are_there(page: Chrome, written: Path) -> None:
    assert len(page.find_elements(By.CSS_SELECTOR, ".plot svg")) == 3
    assert "Findings: " in page.find_element(By.TAG_NAME, "section").text
    assert written.stat().st_size < 2_000_000


def test_the_changes_are_walked_through_from_the_finding(page: Chrome) -> None:
    story = page.find_element(By.ID, "story-0")
    current = story.find_element(By.CSS_SELECTOR, ".lanes tr[aria-current=step]")
    assert "rule broken here" in current.text
    said = story.find_element(By.CLASS_NAME, "told").text
    assert ": as_id 0 gfn " in said
    lanes = story.find_element(By.CLASS_NAME, "lanes")
    lanes.send_keys(Keys.HOME)
    begun = story.find_element(By.CLASS_NAME, "where").text
    lanes.send_keys(Keys.ARROW_DOWN)
    where = story.find_element(By.CLASS_NAME, "where").text
    assert where != begun and where.startswith("line ")
    assert story.find_elements(By.CSS_SELECTOR, ".tree td.new")


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_accessible(page: Chrome, width: int, theme: str) -> None:
    page.set_window_size(width, 900)
    page.execute_script(f"document.documentElement.dataset.theme = '{theme}'")
    violations = Axe().run(page)["violations"]
    assert not violations, [(v["id"], v["nodes"][0]["html"][:200]) for v in violations]

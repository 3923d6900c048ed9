# SPDX-License-Identifier: GPL-2.0-only
"""The HTML report as a reader uses it, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_core_python.selenium import Axe
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement


@pytest.fixture
def page(chromium: Chrome, report: Path) -> Iterator[Chrome]:
    chromium.set_window_size(1400, 1000)
    chromium.get(report.as_uri())
    yield chromium
    errors = [e for e in chromium.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
    assert not errors, errors


def story(page: Chrome, n: int = 0) -> WebElement:
    return page.find_element(By.ID, f"story-{n}")


def current(page: Chrome, n: int = 0) -> int:
    row = story(page, n).find_element(By.CSS_SELECTOR, ".lanes tr[aria-current=step]")
    return int(row.find_element(By.TAG_NAME, "td").text)


def go(page: Chrome, what: str, n: int = 0) -> None:
    story(page, n).find_element(By.CSS_SELECTOR, f"[data-go={what}]").click()


def tree(page: Chrome, n: int = 0) -> dict[str, tuple[str, ...]]:
    rows = story(page, n).find_elements(By.CSS_SELECTOR, ".tree tbody tr")
    return {
        r.find_element(By.TAG_NAME, "th").text: tuple(
            c.text for c in r.find_elements(By.TAG_NAME, "td")
        )
        for r in rows
    }


def data(report: Path) -> Any:
    text = report.read_text().split('id="septum-data">')[1].split("</script>")[0]
    return list(json.loads(text)["stories"].values())


def test_one_file_without_network_and_small(page: Chrome, report: Path) -> None:
    assert report.stat().st_size < 2_000_000
    page.get_log("performance")  # what the browser's own first page asked for
    page.refresh()
    asked = [
        json.loads(entry["message"])["message"]["params"]["request"]["url"]
        for entry in page.get_log("performance")
        if '"Network.requestWillBeSent"' in entry["message"]
    ]
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)


def test_matrix_links_to_the_counterexamples(page: Chrome) -> None:
    cells = page.find_elements(By.CSS_SELECTOR, ".matrix td")
    words = [cell.text.split("\n")[0] for cell in cells]
    assert words[:2] == ["violated: I4", "holds"]
    links = page.find_elements(By.CSS_SELECTOR, ".matrix a")
    assert len(links) == len(page.find_elements(By.CLASS_NAME, "story")) == 3
    links[1].click()
    assert page.current_url.endswith("#story-1")


def test_slider_buttons_and_rows_move_to_the_same_step(page: Chrome) -> None:
    begun = current(page)
    go(page, "brief")
    slider = story(page).find_element(By.CSS_SELECTOR, "input[type=range]")
    slider.send_keys(Keys.HOME)
    assert current(page) == 0
    go(page, "on")
    go(page, "on")
    go(page, "back")
    assert current(page) == 1 and slider.get_attribute("value") == "1"
    story(page).find_elements(By.CSS_SELECTOR, ".lanes tbody tr")[5].click()
    assert current(page) == 5
    assert "step 5 of" in story(page).find_element(By.TAG_NAME, "output").text
    go(page, "broken")
    assert current(page) >= begun


def test_arrow_keys_move_and_skip_what_is_folded(page: Chrome, report: Path) -> None:
    lanes = story(page).find_element(By.CLASS_NAME, "lanes")
    lanes.send_keys(Keys.HOME)
    seen = [current(page)]
    for _ in range(4):
        lanes.send_keys(Keys.ARROW_DOWN)
        seen.append(current(page))
    steps = data(report)[0]["steps"]
    assert seen == sorted(set(seen)) and not any(steps[at]["minor"] for at in seen[1:])
    lanes.send_keys(Keys.ARROW_UP)
    assert current(page) == seen[-2]


def test_trees_follow_the_step(page: Chrome, report: Path) -> None:
    steps = data(report)[0]["steps"]
    frozen = next(at for at, s in enumerate(steps) if s["text"].endswith("-> FROZEN"))
    go(page, "brief")
    story(page).find_elements(By.CSS_SELECTOR, ".lanes tbody tr")[frozen].click()
    rows = tree(page)
    assert ["frozen" in cells[-1] for cells in rows.values()].count(True) == 1
    name = next(n for n, cells in rows.items() if cells[0] == "FROZEN")
    story(page).find_elements(By.CSS_SELECTOR, ".lanes tbody tr")[frozen - 1].click()
    assert tree(page)[name][0] == "NONPRESENT"


def test_a_disagreement_is_marked(page: Chrome, report: Path) -> None:
    n = len(page.find_elements(By.CLASS_NAME, "story")) - 1
    steps = data(report)[n]["steps"]
    at = next(i for i, s in enumerate(steps) if any(k[:8] == "differs|" for k, _ in s["changes"]))
    go(page, "brief", n)
    story(page, n).find_elements(By.CSS_SELECTOR, ".lanes tbody tr")[at].click()
    marked = [cells for cells in tree(page, n).values() if "differs" in cells[-1]]
    assert marked and all(cells[0] != cells[1] for cells in marked)


def test_code_locks_and_cpus_are_shown(page: Chrome) -> None:
    box = story(page)
    assert box.find_element(By.CSS_SELECTOR, ".source .at").text.strip()
    assert ".py:" in box.find_element(By.CLASS_NAME, "where").text
    assert "mmu_lock" in box.find_element(By.CLASS_NAME, "locks").text
    assert "TD_EPOCH" in box.find_element(By.CLASS_NAME, "cpu").text


def test_copy_gives_the_mail_text(page: Chrome, report: Path) -> None:
    page.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
    go(page, "copy")
    text = page.execute_async_script(
        "const done = arguments[0]; navigator.clipboard.readText().then(done, e => done(`${e}`))"
    )
    assert text == data(report)[0]["mail"] and "breaks I4" in text
    assert max(map(len, text.splitlines())) <= 78


def test_theme_button(page: Chrome) -> None:
    def ground() -> str:
        return str(page.execute_script("return getComputedStyle(document.body).backgroundColor"))

    before = ground()
    page.find_element(By.CSS_SELECTOR, "[data-go=theme]").click()
    assert ground() != before


def test_screen_readers_hear_the_step(page: Chrome) -> None:
    go(page, "broken")
    live = story(page).find_element(By.CSS_SELECTOR, "[aria-live=polite]")
    assert f"Step {current(page)}, " in (live.get_attribute("textContent") or "")


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_accessible_at_every_width_and_in_both_themes(page: Chrome, width: int, dark: bool) -> None:
    page.set_window_size(width, 900)
    page.execute_script(f"document.documentElement.dataset.theme = '{'dark' if dark else 'light'}'")
    violations = Axe().run(page)["violations"]
    assert not violations, [(v["id"], v["help"], v["nodes"][0]["html"][:200]) for v in violations]


def test_fits_a_phone(page: Chrome) -> None:
    page.set_window_size(390, 800)
    wide = page.execute_script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert wide <= 0

# SPDX-License-Identifier: GPL-2.0-only
"""Compiled code again: counterexamples that are shown, campaigns that are killed.
``SEPTUM_LINUX=TREE``."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from textual.widgets import Static

from septum.cli.step import story_walk
from septum.cli.stepper import Stepper

TREE = os.environ.get("SEPTUM_LINUX", "")
pytestmark = [
    pytest.mark.skipif(not TREE, reason="no kernel tree: set SEPTUM_LINUX to one"),
    pytest.mark.slow,
]
MAIN = "virt/kvm/kvm_main.c"
OLD_NAME = TREE and "kvm_mmu_invalidate_begin(" in Path(TREE, MAIN).read_text()
INVALIDATE = f"kvm_mmu_invalidate_{'begin' if OLD_NAME else 'start'}"
COMMAND = (sys.executable, "-c", "from septum.cli import main; main()")


def septum(
    *words: object, cwd: Path, cache: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if cache is not None:
        environment["XDG_CACHE_HOME"] = str(cache)
    command = [*COMMAND, *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=600, cwd=cwd, env=environment
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("again")


@pytest.fixture(scope="module")
def found(home: Path) -> Path:
    """The counterexample of a tree whose invalidations leave the sequence number alone."""
    edited = home / "linux"
    subprocess.run(["cp", "-as", str(Path(TREE).resolve()), str(edited)], check=True)
    text = (edited / MAIN).read_text()
    assert "kvm->mmu_invalidate_seq++;" in text
    (edited / MAIN).unlink()
    (edited / MAIN).write_text(text.replace("kvm->mmu_invalidate_seq++;", ";"))
    words = ("-s", "fault-punch", "--strategy", "stateful", "--format", "json")
    checked = septum("kernel", "check", "--linux", edited, *words, cwd=home, cache=home / "cache")
    (row,) = json.loads(checked.stdout)["results"]
    assert row["verdict"] == "violated", checked.stdout
    return Path(row["counterexample"])


def test_it_is_shown_beside_the_c_code(home: Path, found: Path) -> None:
    """The build is found by what the tree held."""
    shown = septum("show", found, "--all", "--wide", cwd=home, cache=home / "cache")
    assert shown.returncode == 0, shown.stderr
    rule = json.loads(found.read_text())["finding"]["id"]
    assert f"  {rule}: " in shown.stdout
    assert f"{INVALIDATE}()" in shown.stdout
    assert re.search(r"\bkvm_main\.c:\d+", shown.stdout)


def test_it_is_a_page_beside_the_c_code(home: Path, found: Path) -> None:
    """The report's data: each step with its place in the tree, the finding among them."""
    page = home / "page.html"
    shown = septum("show", found, "--html", page, cwd=home, cache=home / "cache")
    assert shown.returncode == 0, shown.stderr
    text = page.read_text()
    rule = json.loads(found.read_text())["finding"]["id"]
    assert rule in text
    assert INVALIDATE in text
    assert "tdp_mmu.c" in text
    assert "mmu_invalidate_in_progress++" in text, "the C source itself"


def test_it_is_stepped_through_beside_the_c_code(
    home: Path, found: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the step that breaks the rule, to the one that sets it up, by keys."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    walk = story_walk(found)
    functions = {walk.step(n).function for n in range(len(walk))}
    assert {INVALIDATE, "kvm_tdp_mmu_map"} <= functions
    app = Stepper(walk)

    async def keys() -> None:
        async with app.run_test(size=(140, 45)) as pilot:
            await pilot.pause()
            assert app.at == walk.first
            await pilot.press("home", "b", *"task", "space", *"host", "enter", "c")
            await pilot.pause()
            assert walk.tasks[walk.step(app.at).task].startswith("host")
            assert walk.step(app.at).function in str(app.query_one("#code", Static).render())

    asyncio.run(keys())


def test_the_sound_tree_does_not_follow_it(home: Path, found: Path) -> None:
    """The schedule does not fit to code that writes the sequence number."""
    shown = septum("show", found, "--linux", TREE, cwd=home)
    assert shown.returncode != 0, shown.stdout
    assert re.search(r"stale: .*recorded on Linux .*; run on ", shown.stderr), shown.stderr


def test_the_search_near_it_finds_nothing_in_the_sound_tree(home: Path, found: Path) -> None:
    words = ("--from", found, "--format", "json")
    near = septum("kernel", "check", "--linux", TREE, *words, cwd=home)
    (row,) = json.loads(near.stdout)["results"]
    assert row["verdict"] in ("holds", "bounded", "vacuous"), near.stdout


def test_without_its_build_the_tree_is_asked_for(home: Path, found: Path, tmp_path: Path) -> None:
    shown = septum("show", found, cwd=home, cache=tmp_path)
    assert shown.returncode == 2
    assert "there is no build here" in shown.stderr


def test_a_campaign_that_is_killed_goes_on(tmp_path: Path) -> None:
    """kill -9 after some of it was saved: the rest is done later, nothing counts twice."""
    rows = ("-s", "fault-fault", "-s", "install-leaf-fails")
    campaign = ("--campaign", str(tmp_path / "campaign"))
    words = ("kernel", "check", "--linux", TREE, *rows, *campaign)
    process = subprocess.Popen([*COMMAND, *words], cwd=tmp_path, stderr=subprocess.DEVNULL)
    while process.poll() is None and _saved(tmp_path) < 1000:
        time.sleep(0.2)
    process.kill()
    process.wait()
    before = _saved(tmp_path)
    resumed = septum(*words, "--format", "json", cwd=tmp_path)
    rows = json.loads(resumed.stdout)["results"]
    again = septum(*words[:-2], "--format", "json", cwd=tmp_path)
    whole = json.loads(again.stdout)["results"]
    assert [r["verdict"] for r in rows] == ["holds", "holds"], resumed.stderr
    assert [r["executions"] for r in rows] == [r["executions"] for r in whole]
    assert 0 < before <= sum(r["executions"] for r in rows)


def _saved(directory: Path) -> int:
    """Executions that the campaign has kept."""
    from septum.scenarios.campaign import BadCampaign, look

    try:
        return sum(row.executions for row in look(directory / "campaign").rows)
    except BadCampaign:
        return 0

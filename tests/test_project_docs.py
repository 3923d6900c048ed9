# SPDX-License-Identifier: GPL-2.0-only
"""The documentation is true: shown output is real, examples are fresh, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("regen_docs", ROOT / "scripts" / "regen_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


DOCS = _script()
PAGES: list[Path] = DOCS.pages()
MARKDOWN = sorted([*PAGES, *ROOT.glob("tests/data/**/*.md")])
CHEAP = [block for page in PAGES for block in DOCS.blocks(page) if not block.slow]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("block", CHEAP, ids=lambda block: block.where)
def test_shown_output_is_what_the_command_prints(block: object) -> None:
    assert DOCS.plain(block.body) == DOCS.plain(block.fresh())  # type: ignore[attr-defined]


def test_pages_have_generated_blocks() -> None:
    """The pattern still finds them: every marker has a block."""
    markers = sum(len(re.findall(r"^<!-- (?:output|file)\b", p.read_text(), re.M)) for p in PAGES)
    assert markers == sum(1 for page in PAGES for _ in DOCS.blocks(page))
    assert markers >= 10


def test_example_files_are_fresh() -> None:
    assert DOCS.stale_examples() == []


def test_durations_do_not_make_a_block_stale() -> None:
    one = "  fault-fault  holds  complete: 2 executions r      9.9s\n1 row in 9.90s\n"
    other = "  fault-fault  holds  complete: 2 executions r     12.3s\n1 row in 1m02s\n"
    assert DOCS.plain(one) == DOCS.plain(other)
    assert DOCS.plain(one) != DOCS.plain(one.replace("2 exec", "3 exec"))
    assert DOCS.plain('"seconds": 0.1,') == DOCS.plain('"seconds": 12.34,')


def test_a_cut_shows_what_it_leaves_out() -> None:
    text = "a\nb\nc\nd\n"
    assert DOCS._cut(text, "", "") == text
    assert DOCS._cut(text, "^b", "^d") == "[...]\nb\nc\n[...]\n"


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them from headings, those of an included page too."""
    out: set[str] = set()
    for included in re.findall(r"^```\{include\} (\S+)$", page.read_text(), re.M):
        out |= _anchors(page.parent / included)
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        words = re.sub(r"[^\w\- ]", "", heading.lower())
        out.add(words.replace(" ", "-"))
    return out


def _links(page: Path) -> Iterator[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            yield target


@pytest.mark.parametrize("page", MARKDOWN, ids=relative)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for link in _links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{relative(page)}: {link}"
        assert not anchor or anchor in _anchors(target), f"{relative(page)}: {link}"


@pytest.mark.parametrize("page", MARKDOWN, ids=relative)
def test_pages_name_files_that_exist(page: Path) -> None:
    """Code spans that look like a path of this tree."""
    for name in re.findall(r"`((?:src|tests|docs|scripts)/[\w./-]+\w)`", page.read_text()):
        assert (ROOT / name).exists(), f"{relative(page)}: {name}"

# SPDX-License-Identifier: GPL-2.0-only
"""The documentation is true: shown output is real, examples are fresh, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import pytest

from septum.kvm.monitors import MONITORS
from septum.trace import RULES

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


def external_links() -> list[tuple[str, str]]:
    """(page, address) of every link that leaves the tree."""
    return [
        (relative(page), link)
        for page in MARKDOWN
        for link in re.findall(r"(?:https?|ftp)://[^\s)>`\"']+", page.read_text())
    ]


@pytest.mark.parametrize(("page", "link"), external_links())
def test_external_links_are_well_formed(page: str, link: str) -> None:
    """They are not followed: tests need no network."""
    parts = urlsplit(link)
    assert parts.scheme == "https", link
    assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), link
    assert link == link.rstrip(".,;:"), link


# --- sources --------------------------------------------------------------------------------

_SECTION = r"\d+(?:\.\d+)?(?:\([ab]\))?"
_MORE = rf"(?: to |, (?:and )?| and ){_SECTION}(?!\w)"
_CITED = re.compile(
    rf"facts(?:/[a-z-]+\.md)?,?(?: sections?)? ({_SECTION}(?:{_MORE})*)", re.IGNORECASE
)


def _expanded(text: str) -> set[str]:
    """``4.1 to 4.3, 6`` as 4.1, 4.2, 4.3, 6."""
    out = set()
    for part in re.split(r", (?:and )?| and ", text):
        first, _, last = part.partition(" to ")
        out.add(first)
        if last and "." in first and "." in last:
            chapter, begin = first.split(".")
            out |= {f"{chapter}.{n}" for n in range(int(begin), int(last.split(".")[1]) + 1)}
        elif last:
            out |= {str(n) for n in range(int(first), int(last) + 1)}
    return out


def _sections() -> set[str]:
    """Sections that docs/sources.md explains."""
    text = (ROOT / "docs/sources.md").read_text()
    cells = re.findall(rf"^\| ({_SECTION}[^|]*) \|", text, re.M)
    return {section for cell in cells for section in _expanded(cell)}


def _citing_files() -> list[Path]:
    return [*sorted((ROOT / "src").rglob("*.py")), *MARKDOWN]


def test_every_section_of_the_facts_that_is_cited_has_a_public_source() -> None:
    known = _sections()
    assert len(known) > 60
    chapters = {section.split(".")[0] for section in known}
    missing = {
        section: relative(path)
        for path in _citing_files()
        for cited in _CITED.findall(path.read_text())
        for section in _expanded(cited)
        if section not in known and section not in chapters
    }
    assert missing == {}


def test_every_rule_names_a_public_source() -> None:
    bare = [m.id for m in MONITORS.values() if not re.search(r"Linux \w|tdh_\w+\.c", m.source)]
    assert bare == []
    assert [r for r in RULES if not re.search(r"\w+\(\)|\w+\.c\b", RULES[r].source)] == []

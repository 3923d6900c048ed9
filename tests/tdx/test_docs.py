# SPDX-License-Identifier: GPL-2.0-only
"""The session in docs/tdx-model.md is real output."""

from __future__ import annotations

import doctest
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "tdx-model.md"


def test_the_session_in_the_docs() -> None:
    block = PAGE.read_text().split("```pycon\n")[1].split("```")[0]
    test = doctest.DocTestParser().get_doctest(block, {}, PAGE.name, str(PAGE), 0)
    assert len(test.examples) > 10
    results = doctest.DocTestRunner(verbose=False).run(test)
    assert results.failed == 0

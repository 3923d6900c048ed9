# SPDX-License-Identifier: GPL-2.0-only
"""One image per process, shared by all tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from native_rig import Rig, compile_fixture


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    if any(shutil.which(tool) is None for tool in ("gcc", "ld", "nm", "addr2line")):
        pytest.skip("gcc and binutils are needed: apt install gcc binutils")
    if os.uname().machine != "x86_64":
        pytest.skip("images are x86-64 code")
    made = Rig(compile_fixture(tmp_path_factory.mktemp("native")))
    yield made
    made.lines.close()


@pytest.fixture
def unlearned(rig: Rig) -> Iterator[Rig]:
    """Nothing is known of which words tasks share."""
    program = rig.program("private_work")
    words = program.words()
    program.know(())
    yield rig
    program.know(words)

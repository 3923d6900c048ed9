# SPDX-License-Identifier: GPL-2.0-only
"""Counterexamples of compiled code, run again in an image process.

The file tells which tree it was found in by the tree's content.  Without a tree, the image of
just that content is looked for in the user's cache; with one, that tree is built, and the
schedule decides whether it still fits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from septum.explore import Options
from septum.machine import Event
from septum.native.build import build, find_built
from septum.native.code import Code
from septum.native.errors import BuildError
from septum.native.process import ImageProcess, Wanted
from septum.native.program import NativeBuilt, SharingGrew
from septum.native.tree import read_tree
from septum.scenarios.counterexample import (
    Diverged,
    check_tasks,
    replay_on,
    script_of,
    states_along,
)
from septum.scenarios.near import search_near_on
from septum.scenarios.result import CheckResult, Counterexample, Replay
from septum.scenarios.suite import find

__all__ = ["NoBuild", "code_for", "replay", "search_near"]


class NoBuild(ValueError):
    """There is no image to run a counterexample on: which, and what to do."""


def code_for(
    ce: Counterexample, tree: Path | None = None, progress: Callable[[str], None] = lambda _: None
) -> Code:
    """The image for a counterexample.

    :param tree: build this tree, whatever it holds; without, only what the file was
        recorded on will do.
    :raises NoBuild: it is not there.
    :raises BuildError: the tree cannot be built.
    """
    if tree is not None:
        return build(tree, progress=progress).code
    about = ce.kernel
    content = str(about["content"])
    found = find_built(content)
    if found is not None:
        return replace(found, tree=str(about["tree"]))
    raise NoBuild(
        f"found in Linux {about['version']} ({about['tree']}, content {content[:12]}), of which "
        "there is no build here (never built, edited since, or built by another septum): give "
        "the tree with --linux TREE"
    )


def replay(ce: Counterexample, code: Code, *, states: bool = False) -> Replay:
    """Run it again.

    :param states: also keep both trees after every step.
    :raises Diverged: the schedule no longer fits the code.
    :raises StartError, ImageError, ImageDied: it cannot be run.
    """
    process = _process(ce, code)
    try:
        again = process.ask(_replay, ce, states)
    finally:
        process.close()
    source = _source(code)
    if source is not None:
        for event in again.events:
            _locate(event, source)
    return again


def search_near(ce: Counterexample, code: Code, options: Options) -> CheckResult:
    """`septum.scenarios.near.search_near` in compiled code."""
    process = _process(ce, code)
    try:
        row = process.ask(_near, ce, options)
    finally:
        process.close()
    row.design = code.name
    return row


def _process(ce: Counterexample, code: Code) -> ImageProcess:
    return ImageProcess(Wanted(code, find(ce.scenario), tuple(ce.params.items())))


def _source(code: Code) -> Path | None:
    """The tree, if it still holds what the image was built from."""
    try:
        same = read_tree(code.source).digest() == code.content
    except (BuildError, OSError):
        return None
    return code.source if same else None


def _locate(event: Event, source: Path) -> None:
    """Give an event's file the name by which its lines can be read."""
    if event.where is not None:
        function, file, line = event.where
        event.where = (function, str(source / file), line)


# --- in the image process ------------------------------------------------------------------


def _replay(built: NativeBuilt, ce: Counterexample, states: bool) -> Replay:
    # One schedule: Python runs it all.  What C remembers of the start may not fit to a run
    # that looks at every state.
    built.program.give_up_engine()
    built.program.know(tuple(ce.kernel["words"]))
    check_tasks(built, ce)
    try:
        kept = states_along(built, script_of(ce)) if states else {}
        return replay_on(built, ce, kept)
    except SharingGrew:
        raise Diverged(
            "the code has more scheduling points than when this was recorded; search near it "
            "with `septum kernel check --linux TREE --from FILE`"
        ) from None


def _near(built: NativeBuilt, ce: Counterexample, options: Options) -> CheckResult:
    built.program.know(tuple(ce.kernel["words"]))
    while True:
        try:
            return search_near_on(built, ce, options)
        except SharingGrew:
            continue

# SPDX-License-Identifier: GPL-2.0-only
"""Check designs in scenarios: build, explore, minimise, judge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from septum.explore import Options, SearchResult
from septum.explore.search import DEFAULTS
from septum.scenarios.crew import Crew
from septum.scenarios.model import Scenario
from septum.scenarios.result import CheckResult
from septum.scenarios.rows import make, primary
from septum.scenarios.scheduling import Store, run_rows
from septum.scenarios.subject import Subject
from septum.scenarios.suite import SCENARIOS

__all__ = ["DEFAULT_DESIGNS", "check", "check_many", "default_rows", "primary"]

DEFAULT_DESIGNS = (
    "v6.16",
    "rfc-v5-08",
    "rfc-v5-08+nonpresent",
    "rfc-v5",
    "feb06",
    "feb06+shared-param",
    "feb06+warn-shared",
    "feb06+opencoded-cas",
    "feb06+mirror-bool",
    "feb10-sp",
    "v7.3",
)


REREAD = "feb06+reread-sptep"
REREAD_SCENARIOS = ("fault-fault", "fault-neighbours", "fault-punch", "install-leaf-fails")
"""The mail's last question.  It breaks already when nobody races, so the scenarios that
need a mapping that works say nothing about it."""

VOID = "void-callback"
VOID_SCENARIOS = (
    "fault-fault",
    "fault-neighbours",
    "install-accept",
    "install-leaf-fails",
    "zap-running",
    "subtree",
    "split-tripwire",
)
"""Where the protocol of 2022 says something; the scenarios of huge pages name it themselves."""


def default_rows() -> list[tuple[str, str]]:
    """Every default design in every default scenario, the mail's last question, the protocol
    of 2022 where it matters, and the scenarios that name their designs."""
    scenarios = [s for s in SCENARIOS.values() if s.default]
    rows = [(d, s.name) for d in DEFAULT_DESIGNS for s in scenarios if d in (s.designs or (d,))]
    others = [(d, s.name) for s in scenarios for d in s.designs if d not in DEFAULT_DESIGNS]
    rows += [(REREAD, name) for name in REREAD_SCENARIOS]
    return rows + [(VOID, name) for name in VOID_SCENARIOS] + others


def check(
    design: str,
    scenario: str | Scenario,
    *,
    options: Options = DEFAULTS,
    params: Mapping[str, Any] | None = None,
    monitors_off: Iterable[str] = (),
    force: bool = False,
    progress: Callable[[SearchResult], None] | None = None,
) -> CheckResult:
    """One row of the verdict table.

    :param force: also run where the design lacks a capability that the scenario needs.
    :param progress: called now and then with what was found so far.
    """
    row = make(design, scenario, options, params, monitors_off, force)

    def tell(_: int, found: SearchResult) -> None:
        if progress is not None:
            progress(found)

    ((_, result),) = run_rows([row], progress=tell)
    return result


def check_many(
    rows: Sequence[tuple[str, str]],
    *,
    options: Options = DEFAULTS,
    params: Mapping[str, Any] | None = None,
    force: bool = False,
    subject: Subject | None = None,
    crew: Crew | None = None,
    store: Store | None = None,
    progress: Callable[[int, SearchResult], None] | None = None,
) -> Iterator[tuple[int, CheckResult]]:
    """Rows as they are finished, with their position in ``rows``.

    :param subject: what is explored instead of designs.
    :param crew: where to explore; here and one after the other without.  Counts and
        findings do not depend on it.
    :param store: keeps what was done, and knows what was done before.
    :param progress: called with a row's position and what was found in it so far.
    """
    made = [make(*row, options, params, (), force, subject) for row in rows]
    return run_rows(made, crew=crew, store=store, progress=progress)

# SPDX-License-Identifier: GPL-2.0-only
"""What a check tells: verdict table, counterexamples, files, and the exit status."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from septum.cli.options import INPUT, format_option, html_option, write_html
from septum.cli.printing import html_page, print_counterexamples
from septum.cli.running import Outcome, default_directory, others_of, save_all
from septum.cli.terminal import painter, width
from septum.report.documents import check_document, dump
from septum.report.junit import junit
from septum.report.ktap import ktap
from septum.report.verdicts import difference_lines, exit_code, summary_line, verdict_table
from septum.scenarios import expect

__all__ = ["Output", "output_options"]

F = TypeVar("F", bound=Callable[..., Any])

_TEST_REPORTS = {"ktap": ktap, "junit": junit}
_OPTIONS = (
    click.option("--expect", "expected", type=INPUT, help="Compare with reviewed verdicts."),
    click.option(
        "--save",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="Write counterexamples to DIR (default: the user's cache; with --expect, nowhere).",
    ),
    click.option(
        "--tables/--no-tables",
        default=None,
        help="Print each counterexample's interleaving (default: unless --expect is given).",
    ),
    click.option("--wide", is_flag=True, help="Every count, not bound to 78 columns."),
    html_option,
    format_option(*_TEST_REPORTS),
)


def output_options(function: F) -> F:
    """The options that `Output` stands for."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True)
class Output:
    """How results are told; see the options' help."""

    expected: Path | None
    save: Path | None
    tables: bool | None
    wide: bool
    html: Path | None
    form: str
    reviewed: dict[tuple[str, str], expect.Expected] | None

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> Output:
        """Its own among a command's options, which are taken out.  A file of reviewed verdicts
        that cannot be read is refused now, before anything is explored."""
        own = {name: options.pop(name) for name in cls.__dataclass_fields__ if name in options}
        expected = own["expected"]
        return cls(**own, reviewed=None if expected is None else expect.load(expected))

    def tell(self, outcome: Outcome, *, named: bool, after: Callable[[], Sequence[str]]) -> int:
        """Print and write everything; the exit status.

        :param named: only rows that were asked for are expected.
        :param after: what to say after an interruption: how to go on.
        """
        results = outcome.results
        files: dict[tuple[str, str], str] = {}
        if self.save is not None or self.expected is None:
            files = save_all(results, self.save or default_directory())
        differences = self._differences(outcome, named)
        if self.form == "json":
            document = check_document(
                results,
                seconds=outcome.seconds,
                files=files,
                others=others_of(results, files),
                differences=differences,
                interrupted=outcome.interrupted,
            )
            click.echo(dump(document), nl=False)
        elif self.form in _TEST_REPORTS:
            click.echo(_TEST_REPORTS[self.form](results, files), nl=False)
        else:
            self._text(outcome, files, differences)
        if self.html is not None:  # last: what cannot be written must not cost the verdicts
            write_html(self.html, html_page(results, files, outcome.seconds))
        if outcome.interrupted:
            click.echo("\n".join(after()), err=True)
            return 130
        if differences is not None:
            return 1 if differences else 0
        return exit_code(results)

    def _differences(self, outcome: Outcome, named: bool) -> list[str] | None:
        reviewed = self.reviewed
        if reviewed is None:
            return None
        if named or outcome.interrupted:
            wanted = {(r.design, r.scenario) for r in outcome.results}
            reviewed = {key: row for key, row in reviewed.items() if key in wanted}
        return expect.compare(outcome.results, reviewed)

    def _text(
        self,
        outcome: Outcome,
        files: dict[tuple[str, str], str],
        differences: Sequence[str] | None,
    ) -> None:
        results = outcome.results
        if self.tables or (self.tables is None and self.expected is None):
            print_counterexamples(results, files)
        table = verdict_table(
            results, files=files, width=width(self.wide), wide=self.wide, paint=painter()
        )
        click.echo(table, nl=False)
        click.echo(summary_line(results, outcome.seconds))
        if differences is not None:
            click.echo("\n".join(difference_lines(differences, str(self.expected))))

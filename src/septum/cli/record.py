# SPDX-License-Identifier: GPL-2.0-only
"""``septum record``: the set-up that records what `septum replay` reads."""

from __future__ import annotations

from pathlib import Path

import click

from septum.trace.setup import SETUPS, RecordError, run_tracefs

__all__ = ["command"]


@click.command("record", short_help="Print or run the set-up of a recording.")
@click.option(
    "--with",
    "tool",
    type=click.Choice(list(SETUPS)),
    default="tracefs",
    show_default=True,
    help="The recorder to print the set-up for.",
)
@click.option("--tdx", is_flag=True, help="Also every SEAMCALL of the memory path.")
@click.option("--run", "run_it", is_flag=True, help="Record now, through tracefs; needs root.")
@click.option("-o", "output", type=click.Path(path_type=Path), help="File of the recording.")
@click.option("--seconds", type=click.FloatRange(min=0.1), help="Stop after this long.")
@click.option("--buffer-kb", default=49152, show_default=True, help="Buffer size per CPU.")
@click.option("--synthetic", nargs=2, metavar="DESIGN SCENARIO", help="From a model instead.")
@click.option("--fail", is_flag=True, help="With --synthetic: a SEAMCALL fails.")
def command(
    tool: str,
    tdx: bool,
    run_it: bool,
    output: Path | None,
    seconds: float | None,
    buffer_kb: int,
    synthetic: tuple[str, str] | None,
    fail: bool,
) -> None:
    """Print or run the set-up that records KVM's MMU events for septum replay.

    Without --run nothing is changed: the commands are printed.  --synthetic writes the
    recording of one execution of a scenario; its header says that it is synthetic.
    """
    if synthetic is not None:
        _write(output, _synthetic(*synthetic, fail=fail))
        return
    if not run_it:
        click.echo(SETUPS[tool](tdx, buffer_kb), nl=False)
        return
    if output is None:
        raise click.UsageError("--run needs -o FILE")
    if tool != "tracefs":
        raise click.UsageError("--run records through tracefs; run the printed set-up by hand")
    try:
        lines, lost = run_tracefs(output, tdx=tdx, buffer_kb=buffer_kb, seconds=seconds)
    except RecordError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{output}: {lines} lines, {lost} events lost")


def _synthetic(design: str, scenario: str, *, fail: bool) -> list[str]:
    from septum.trace.synthetic import record_scenario

    if not fail:
        return record_scenario(design, scenario)
    return record_scenario(
        design, scenario, lambda execution: "a failure was injected" in execution.reached
    )


def _write(output: Path | None, lines: list[str]) -> None:
    text = "".join(line + "\n" for line in lines)
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text)
        click.echo(f"{output}: {len(lines)} lines", err=True)

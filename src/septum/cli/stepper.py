# SPDX-License-Identifier: GPL-2.0-only
"""The terminal stepper: lanes, trees, locks and code of one step at a time (Textual)."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import DataTable, Footer, Header, Input, Static

from septum.report.walk import BadBreakpoint, Breakpoint, Walk, parse_breakpoint

__all__ = ["Stepper"]

_TREES = ("mirror", "sept", "direct")
_LANE_LEAST = 24


class Stepper(App[None]):
    """Walks a `Walk` forward and back."""

    CSS = """
    #lanes { width: 5fr; scrollbar-size: 1 1; }
    #side { width: 4fr; }
    #trees { height: auto; max-height: 50%; scrollbar-size: 1 1; }
    .pane { height: auto; border-top: solid $primary; padding: 0 1; }
    #ask { dock: bottom; display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right", "go(1)", "On", priority=True),
        Binding("left", "go(-1)", "Back", priority=True),
        Binding("home", "goto(0)", "Begin", show=False, priority=True),
        Binding("end", "goto(-1)", "End", show=False, priority=True),
        Binding("f", "finding", "Where it breaks"),
        Binding("b", "ask", "Breakpoint"),
        Binding("c", "run(1)", "To next breakpoint"),
        Binding("C", "run(-1)", "To last one", show=False),
        Binding("x", "clear", "Clear breakpoints", show=False),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, walk: Walk) -> None:
        super().__init__()
        self.walk = walk
        self.at = walk.first
        self.breakpoints: list[Breakpoint] = []
        self.said = ""

    # --- layout -------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        yield Header()
        with Horizontal():
            yield DataTable(id="lanes", cursor_type="row", zebra_stripes=True)
            with Vertical(id="side"):
                yield DataTable(id="trees", cursor_type="none")
                with VerticalScroll():
                    yield Static(id="code", classes="pane")
                    yield Static(id="told", classes="pane")
                    yield Static(id="locks", classes="pane")
                    yield Static(id="cpus", classes="pane")
        yield Static(id="status")
        yield Input(placeholder="gfn HEX, object NAME, task NAME or finding", id="ask")
        yield Footer()

    def on_mount(self) -> None:
        self.title = self.walk.title
        lanes = self.query_one("#lanes", DataTable)
        lanes.add_column("step")
        for task in self.walk.tasks:
            lanes.add_column(task, width=self._lane())
        for at in range(len(self.walk)):
            lanes.add_row(*self._row(at), key=str(at), height=None)
        self.query_one("#trees", DataTable).add_columns("level, gfn", "mirror", "S-EPT", "")
        lanes.focus()
        lanes.move_cursor(row=self.at)
        self._show()

    def _lane(self) -> int:
        """The width of a lane, so that all of them fit if they can."""
        room = self.size.width * 5 // 9 - 9
        return max(_LANE_LEAST, room // len(self.walk.tasks) - 2)

    def _row(self, at: int) -> list[Text]:
        step = self.walk.step(at)
        style = "bold red" if "broken" in step.mark else "bold" if step.mark else ""
        cells = [Text(str(at))]
        for task in range(len(self.walk.tasks)):
            text = step.text + (f" [{step.mark}]" if step.mark else "")
            cells.append(Text(text if task == step.task else "", style=style))
        return cells

    # --- what the keys do ---------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """While a breakpoint is typed, arrow keys belong to the text."""
        return action not in ("go", "goto") or not self.query_one("#ask").display

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        if event.data_table.id == "lanes" and event.cursor_row != self.at:
            self.at = event.cursor_row
            self.said = ""
            self._show()

    def action_go(self, by: int) -> None:
        self.action_goto(min(max(self.at + by, 0), len(self.walk) - 1))

    def action_goto(self, at: int) -> None:
        self.at = at % len(self.walk)
        self.query_one("#lanes", DataTable).move_cursor(row=self.at)
        self._show()

    def action_finding(self) -> None:
        self.action_goto(self.walk.first)

    def action_ask(self) -> None:
        ask = self.query_one("#ask", Input)
        ask.display = True
        ask.value = ""
        ask.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        try:
            if event.value.strip():
                added = parse_breakpoint(event.value, self.walk)
                if added not in self.breakpoints:
                    self.breakpoints.append(added)
            self.said = ""
        except BadBreakpoint as error:
            self.said = str(error)
        event.input.display = False
        self.query_one("#lanes", DataTable).focus()
        self._show()

    def action_clear(self) -> None:
        self.breakpoints.clear()
        self._show()

    def action_run(self, by: int) -> None:
        """To the next step at which a breakpoint hits."""
        if not self.breakpoints:
            self.said = "no breakpoint yet: b sets one"
            self._show()
            return
        at = self.at + by
        while 0 <= at < len(self.walk):
            if any(b.hits(self.walk, at) for b in self.breakpoints):
                self.said = ""
                self.action_goto(at)
                return
            at += by
        self.said = "no breakpoint is hit in that direction"
        self._show()

    # --- the step -----------------------------------------------------------------

    def _show(self) -> None:
        step = self.walk.step(self.at)
        self._trees()
        code = Text()
        code.append(f"{step.function}() {step.where}\n", style="bold")
        for number, text in self.walk.code(self.at):
            code.append(f"{number:4} {text}\n", style="reverse" if number == step.line else "")
        self.query_one("#code", Static).update(code)
        self._list("told", "Told", step.told)
        self._list("locks", "Locks", self.walk.locks(self.at))
        now = self.walk.state(self.at)
        self._list(
            "cpus",
            "vCPUs and epoch",
            [f"{key[4:]}: {text}" for key, text in now.items() if key.startswith("cpu|")],
        )
        stops = "; ".join(map(str, self.breakpoints))
        words = [f"step {self.at} of {len(self.walk) - 1}", self.walk.tasks[step.task], step.text]
        words += [f"breakpoints: {stops}"] * bool(stops) + [self.said] * bool(self.said)
        self.query_one("#status", Static).update(Text(" | ".join(words)))

    def _list(self, where: str, title: str, items: object) -> None:
        text = Text(title, style="bold")
        assert isinstance(items, (list, tuple))
        for item in items or ["none"]:
            text.append(f"\n{item}", style="not bold")
        self.query_one(f"#{where}", Static).update(text)

    def _trees(self) -> None:
        now = self.walk.state(self.at)
        before = self.walk.state(self.at - 1) if self.at else now
        places = {
            (int(gfn, 16), -int(level), level, gfn)
            for tree, level, gfn in (k.split("|") for k in {**before, **now} if k.count("|") == 2)
            if tree in _TREES
        }
        table = self.query_one("#trees", DataTable)
        table.clear()
        for _, _, level, gfn in sorted(places):
            cells = [Text(f"{'  ' * (4 - min(int(level), 4))}{level} {gfn}")]
            for tree in ("mirror", "sept"):
                key = f"{tree}|{level}|{gfn}"
                changed = now.get(key) != before.get(key)
                cells.append(Text(now.get(key, ""), style="bold underline" if changed else ""))
            notes = [f"direct {now[key]}"] if (key := f"direct|{level}|{gfn}") in now else []
            notes += ["differs"] * (f"differs|{level}|{gfn}" in now)
            cells.append(Text(", ".join(notes), style="bold red" if "differs" in notes else ""))
            table.add_row(*cells)

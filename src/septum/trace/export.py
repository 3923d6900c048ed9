# SPDX-License-Identifier: GPL-2.0-only
"""The changes of a recording as a table: Parquet (extra ``septum[parquet]``) or CSV.

Columns: line, time, cpu, task, vm (of the task; 0: cannot be told), as_id, gfn, level, old, new.
SPTEs are unsigned 64-bit in Parquet and hexadecimal in CSV.  Rows are written in batches: memory
does not grow.
"""

from __future__ import annotations

import csv
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from septum.trace.codecs import TraceInputError
from septum.trace.watch import Row

__all__ = ["exporter"]

_BATCH: Final = 1 << 16
_COLUMNS: Final = ("line", "time", "cpu", "task", "vm", "as_id", "gfn", "level", "old", "new")


@contextmanager
def exporter(path: Path) -> Iterator[Callable[[Row], None]]:
    """Yields the function to call with each row; the suffix says which format."""
    if path.suffix == ".csv":
        with path.open("w", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(_COLUMNS)
            yield lambda row: table.writerow(
                [*(getattr(row, name) for name in _COLUMNS[:-2]), f"{row.old:x}", f"{row.new:x}"]
            )
        return
    if path.suffix != ".parquet":
        raise TraceInputError(f"{path}: export writes .parquet or .csv")
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise TraceInputError(
            "Parquet needs pyarrow: pip install 'septum[parquet]', or export to .csv"
        ) from None
    kinds = {
        "time": arrow.float64(),
        "task": arrow.string(),
        **dict.fromkeys(("cpu", "vm", "as_id", "level"), arrow.int16()),
        **dict.fromkeys(("line", "gfn", "old", "new"), arrow.uint64()),
    }
    schema = arrow.schema([(name, kinds[name]) for name in _COLUMNS])
    rows: list[Row] = []

    def flush() -> None:
        columns = {name: [getattr(row, name) for row in rows] for name in _COLUMNS}
        writer.write_table(arrow.table(columns, schema=schema))
        rows.clear()

    def add(row: Row) -> None:
        rows.append(row)
        if len(rows) >= _BATCH:
            flush()

    writer = parquet.ParquetWriter(path, schema)
    try:
        yield add
        flush()
    finally:
        writer.close()

"""How verbs speak: tables for people, JSON for scripts; results on stdout, the rest on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mizzen.errors import MizzenError

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

out = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True, highlight=False)


def show_error(error: MizzenError) -> None:
    """What failed, the value seen, what is allowed, what to do."""
    err.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)


def show_json(value: Any) -> None:
    """One JSON document on stdout; a number that JSON cannot say (NaN, infinity) is null there."""
    print(json.dumps(_with_nulls(value), indent=2, default=str, allow_nan=False))


def _with_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_nulls(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_nulls(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def say(line: str) -> None:
    """A line about what goes on, on stderr."""
    err.print(f"[dim]{escape(line)}[/dim]", soft_wrap=True)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table on stdout; columns whose name ends in `#` are aligned to the right."""
    table = Table(title=title or None, title_justify="left", show_edge=False)
    for number, column in enumerate(columns):
        right = column.endswith("#")
        table.add_column(
            column.rstrip("#"),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=right or number == 0,
        )
    for row in rows:
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    out.print(table)


def figure(value: float | None) -> str:
    """A metric with four significant digits."""
    return "" if value is None else f"{value:.4g}"

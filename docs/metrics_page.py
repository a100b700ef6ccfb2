"""Makes the tables of `docs/metrics.md` from `platform/mizzen/metrics.py`.

    python docs/metrics_page.py           writes them
    python docs/metrics_page.py --check   fails if they are not what would be written

The sections are those of the module: its comments `# --- NAME ---`. The text around the tables is the page's
own. It needs Mizzen installed.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from mizzen import metrics
from mizzen.series import Label, Series

PAGE = Path(__file__).resolve().parent / "metrics.md"
BEGIN = "<!-- series: made by docs/metrics_page.py -->"
END = "<!-- end of series -->"
_SECTION = re.compile(r"^# --- (?P<title>.+?) -+$")
_DECLARED = re.compile(r"^(?P<name>[A-Z_]+) = Series\($")
_ACROSS = {
    "livesum": "sum over living processes",
    "livemax": "highest of the living processes",
    "livemostrecent": "last one set by a living process",
    "max": "highest",
    "mostrecent": "last one set",
}


def sections(source: str) -> dict[str, list[Series]]:
    """The series by the title of their section, both in the order of the module's text."""
    found: dict[str, list[Series]] = {}
    title = ""
    for line in source.splitlines():
        if section := _SECTION.match(line):
            title = section["title"]
        elif declared := _DECLARED.match(line):
            found.setdefault(title, []).append(getattr(metrics, declared["name"]))
    return found


def tables() -> str:
    """The generated part of the page."""
    by_section = sections(inspect.getsource(metrics))
    listed = [one for of_section in by_section.values() for one in of_section]
    if listed != list(metrics.SERIES):
        raise SystemExit("the sections of metrics.py do not hold every series, each once and in order")
    lines: list[str] = []
    for title, of_section in by_section.items():
        lines += [f"### {title[0].upper()}{title[1:]}", ""]
        lines += [
            "| series | kind | unit | labels | what it says | emitted by |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_row(one) for one in of_section]
        lines += [""]
    lines += ["### Labels", "", "| label | of | bound | what it says |", "|---|---|---|---|"]
    return "\n".join([*lines, *_labels(listed)])


def _row(series: Series) -> str:
    labels = ", ".join(f"`{label.name}`" for label in series.labels)
    unit = "" if series.unit == "1" else series.unit
    cells = [f"`{series.name}`", _kind(series), unit, labels, series.help, series.emitter]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _kind(series: Series) -> str:
    if series.kind == "gauge" and series.emitter != "exporter":
        return f"gauge, {_ACROSS[series.across]}"
    if series.kind == "histogram":
        return f"histogram, {series.buckets[0]:g} to {series.buckets[-1]:g}"
    return series.kind


def _labels(listed: list[Series]) -> Iterator[str]:
    of: dict[Label, list[str]] = {}
    for series in listed:
        for label in series.labels:
            of.setdefault(label, []).append(series.name)
    for label, names in sorted(of.items(), key=lambda item: item[0].name):
        bound = ", ".join(f"`{value}`" for value in label.values) or f"{label.limit} values a process"
        several = f"{len(names)} series" if len(names) > 2 else ", ".join(f"`{name}`" for name in names)
        yield f"| `{label.name}` | {several} | {bound} | {label.help} |"


def page(text: str) -> str:
    """`text` with the tables as they must be. Raises `SystemExit` if it has no place for them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE} has no lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def main() -> None:
    """Write the page, or check it."""
    text = PAGE.read_text(encoding="utf-8")
    wanted = page(text)
    if "--check" in sys.argv[1:]:
        if text != wanted:
            raise SystemExit(f"{PAGE.name} is not what metrics.py says: run python docs/metrics_page.py")
        return
    PAGE.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()

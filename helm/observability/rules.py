"""Makes the rule files: those of the chart, and the same ones plain for a Prometheus without Kubernetes.

    python helm/observability/rules.py           writes them
    python helm/observability/rules.py --check   fails if a file is not what would be written

    python helm/observability/rules.py --time-scale 0.0167 --output DIR
        writes plain ones into DIR in which an hour is a minute, for tests that wait for alerts

It does not run Prometheus: `tests/cluster/test_rules.py` has `promtool` check and play them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rule import Style
from rule_files import ALL

REPOSITORY = Path(__file__).resolve().parents[2]
CHART = REPOSITORY / "helm" / "mizzen" / "rules"
PLAIN = REPOSITORY / "deploy" / "monitoring" / "rules"


def plain(folder: Path, scale: float = 1.0) -> dict[Path, str]:
    """The files for a Prometheus without Kubernetes, by path."""
    style = Style(chart=False, scale=scale)
    return {folder / f"{file.name}.yml": style.text(file) for file in ALL if file.on_laptops}


def made() -> dict[Path, str]:
    """What the files in the repository must be, by path."""
    style = Style(chart=True)
    return {CHART / f"{file.name}.yaml": style.text(file) for file in ALL} | plain(PLAIN)


def stale(files: dict[Path, str]) -> list[str]:
    """What is missing, differs, or is left over."""
    there = {*CHART.glob("*.yaml"), *PLAIN.glob("*.yml")}
    wrong = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    return sorted(str(path) for path in {*wrong, *(there - set(files))})


def main() -> None:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description="Make the rule files.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    parser.add_argument(
        "--time-scale", type=float, default=1.0, help="multiply all times by this (with --output)"
    )
    parser.add_argument("--output", type=Path, help="write plain files alone, into this folder")
    given = parser.parse_args()
    if given.time_scale != 1.0 and not given.output:
        parser.error("--time-scale is for tests: it needs --output")
    files = plain(given.output, given.time_scale) if given.output else made()
    if given.check:
        if found := stale(files):
            raise SystemExit(
                f"not up to date: {', '.join(found)}. Run `python helm/observability/rules.py`"
                " (and delete files that it does not make)."
            )
        return
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()

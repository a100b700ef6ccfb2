"""Makes the dashboards of the chart, which are those of a laptop too.

python helm/observability/dashboards.py           writes them
python helm/observability/dashboards.py --check   fails if a file is not what would be written
"""

from __future__ import annotations

import sys
from pathlib import Path

import grafana
from boards import ALL

FOLDER = Path(__file__).resolve().parents[1] / "mizzen" / "dashboards"


def main() -> None:
    """Write the files, or compare them."""
    files = {FOLDER / f"{board.name}.json": grafana.made(board) for board in ALL}
    if sys.argv[1:] == ["--check"]:
        left_over = set(FOLDER.glob("*.json")) - set(files)
        wrong = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
        if found := sorted(str(path) for path in {*wrong, *left_over}):
            raise SystemExit(
                f"not up to date: {', '.join(found)}. Run `python helm/observability/dashboards.py`"
                " (and delete files that it does not make)."
            )
        return
    for path, text in files.items():
        path.write_text(text)


if __name__ == "__main__":
    main()

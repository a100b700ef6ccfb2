"""Mizzen's training as `mizzen train` does it, up to where the model would be exported: for models that are
only measured.

    python mizzen_loop.py CONFIG.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Train."""
    given: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    from mizzen import settings
    from mizzen.training import engine, launch
    from mizzen.training import job as jobs

    job, here = jobs.parse(given["job"], "the job"), settings.current()
    engine.choose_accelerator(job)
    with launch.ray_for([job], here):
        prepared = launch.prepare(job, here, print)
        result = launch.train(job, prepared, here, lambda _: None, say=print)
    print(result.reason)


if __name__ == "__main__":
    main()

"""An environment of its own for Locust and for each peer, from a file of exact versions beside it.

They lie in `.venv-load/NAME` and are made when they are missing, or when their file has changed. None of them
holds Mizzen, and Mizzen's holds none of them.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent / ".venv-load"
REQUIREMENTS = {
    "locust": HERE / "scenarios" / "locust.txt",
    "fastapi": HERE / "peers" / "fastapi.txt",
    "litserve": HERE / "peers" / "litserve.txt",
    "genai": HERE / "peers" / "genai.txt",
    **{
        name: HERE / "quality" / "peers" / f"{name}.txt"
        for name in ("recbole", "statsforecast", "neuralforecast")
    },
}


def python(name: str, say: Callable[[str], None]) -> Path:
    """The interpreter of the environment `name`, which is made first if it is not there as its file says."""
    requirements, folder = REQUIREMENTS[name], ROOT / name
    interpreter, marker = folder / "bin" / "python", folder / "made-from"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not marker.exists() or marker.read_text() != digest:
        say(f"making the environment {name}")
        run = [sys.executable, "-m", "venv", "--clear", str(folder)]
        subprocess.run(run, check=True)
        # No dependencies beyond the file: it is the whole environment, so that runs can be compared.
        install = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "--no-deps", "-r", str(requirements)], check=True)
        subprocess.run([str(interpreter), "-m", "pip", "--disable-pip-version-check", "check"], check=True)
        marker.write_text(digest)
    return interpreter

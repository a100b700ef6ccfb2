"""Prints what Mizzen depends on with its extras: `requirements.py cpu|gpu mlflow`, beside a pyproject.toml.

So that the image has its dependencies in a layer of their own, which a change of code does not touch.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
for requirements in (
    project["dependencies"],
    *(project["optional-dependencies"][extra] for extra in sys.argv[1:]),
):
    for requirement in requirements:
        sys.stdout.write(requirement + "\n")

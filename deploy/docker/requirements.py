"""Prints what Mizzen depends on with one extra: `requirements.py cpu|gpu`, beside a pyproject.toml.

So that the image has its dependencies in a layer of their own, which a change of code does not touch.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
for requirement in project["dependencies"] + project["optional-dependencies"][sys.argv[1]]:
    sys.stdout.write(requirement + "\n")

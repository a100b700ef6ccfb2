"""Which servers run here, and what they serve."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mizzen.errors import NotFoundError
from mizzen.serving import running
from mizzen.serving.pins import Resolved
from mizzen.serving.running import Running, ServedApp
from mizzen.serving.spec import App, Canary, Shadow
from mizzen.settings import read


def version(number: int) -> Any:
    return SimpleNamespace(name="m", version=number)


def test_only_servers_that_are_alive_are_found(tmp_path: Path):
    settings = read({"MIZZEN_HOME": str(tmp_path)})
    with pytest.raises(NotFoundError, match="nothing is being served"):
        running.signal_reload(settings)
    apps = [ServedApp("a", "m@3", "m@4", 0.1)]
    running.write(settings, 8000, "http://127.0.0.1:8000", apps)
    finished = subprocess.Popen([sys.executable, "-c", ""])
    finished.wait()
    dead = {"pid": finished.pid, "url": "http://127.0.0.1:8001", "apps": []}
    (settings.run_dir / "serve-8001.json").write_text(json.dumps(dead))
    assert running.find(settings) == [Running(os.getpid(), "http://127.0.0.1:8000", tuple(apps))]
    assert not (settings.run_dir / "serve-8001.json").exists()
    running.remove(settings, 8000)
    assert running.find(settings) == []


def test_an_application_is_told_with_its_canary_and_its_shadow():
    app = App(
        name="a",
        model="m@production",
        canary=Canary(model="m@candidate", weight=0.05),
        shadow=Shadow(model="m@5", share=0.5),
    )
    told = running.describe(app, Resolved(version(3), version(4), version(5)))
    assert str(told) == "m@3, canary m@4 (0.05 of requests), shadow m@5 (copies of 0.5)"
    assert str(running.describe(App(name="a", model="m"), Resolved(version(3)))) == "m@3"

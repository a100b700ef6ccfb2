"""Which `mizzen serve` runs on this machine, and what it serves: a file for each, in `Settings.run_dir`.

It starts and stops nothing (`local` does); it can ask for a reload.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mizzen.errors import NotFoundError
from mizzen.serving.pins import Resolved
from mizzen.serving.spec import App
from mizzen.settings import Settings
from mizzen.store.manifest import Manifest


@dataclass(frozen=True)
class ServedApp:
    """An application, with the versions that its references meant when it was started or reloaded."""

    name: str
    model: str
    """`NAME@VERSION`, as the others."""
    canary: str | None = None
    weight: float | None = None
    """Share of the requests that go to the canary."""
    shadow: str | None = None
    share: float | None = None
    """Share of the requests that are copied to the shadow."""

    def __str__(self) -> str:
        text = self.model
        if self.canary is not None:
            text += f", canary {self.canary} ({self.weight:.4g} of requests)"
        if self.shadow is not None:
            text += f", shadow {self.shadow} (copies of {self.share:.4g})"
        return text


@dataclass(frozen=True)
class Running:
    """A `mizzen serve` that runs on this machine with these settings."""

    pid: int
    url: str
    apps: tuple[ServedApp, ...] = ()


def describe(app: App, versions: Resolved) -> ServedApp:
    """What an application serves."""
    return ServedApp(
        app.name,
        _name(versions.first),
        None if versions.canary is None else _name(versions.canary),
        None if app.canary is None else app.canary.weight,
        None if versions.shadow is None else _name(versions.shadow),
        None if app.shadow is None else app.shadow.share,
    )


def _name(manifest: Manifest) -> str:
    return f"{manifest.name}@{manifest.version}"


def write(settings: Settings, port: int, url: str, apps: Sequence[ServedApp]) -> None:
    """Say that this process serves `apps`."""
    file = _file(settings, port)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"pid": os.getpid(), "url": url, "apps": [asdict(app) for app in apps]}))


def remove(settings: Settings, port: int) -> None:
    """Say that it does not any more."""
    _file(settings, port).unlink(missing_ok=True)


def find(settings: Settings) -> list[Running]:
    """Every `mizzen serve` that is alive."""
    found = []
    for file in sorted(settings.run_dir.glob("serve-*.json")):
        content = json.loads(file.read_text())
        try:
            os.kill(content["pid"], 0)
        except ProcessLookupError:
            file.unlink(missing_ok=True)
            continue
        apps = tuple(ServedApp(**app) for app in content["apps"])
        found.append(Running(content["pid"], content["url"], apps))
    return found


def signal_reload(settings: Settings) -> list[Running]:
    """Ask every `mizzen serve` to reload. Raises `NotFoundError` if there is none."""
    asked = find(settings)
    if not asked:
        raise NotFoundError(
            "nothing is being served", saw=str(settings.run_dir), remedy="Start `mizzen serve`."
        )
    for one in asked:
        os.kill(one.pid, signal.SIGHUP)
    return asked


def _file(settings: Settings, port: int) -> Path:
    return settings.run_dir / f"serve-{port}.json"

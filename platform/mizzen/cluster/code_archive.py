"""A job's own code, packed so that the same files always make the same bytes.

It travels in a ConfigMap, which holds a megabyte: code, not data. Larger things belong into the image or into
object storage.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path, PurePosixPath

from mizzen.errors import JobError

CODE_FILE = "code.zip"
MAX_BYTES = 900 * 1024
EPOCH = (1980, 1, 1, 0, 0, 0)
LEFT_OUT = frozenset(
    {
        ".git",
        ".hg",
        ".svn",
        ".venv",
        "venv",
        "node_modules",
        "__pycache__",
        ".ipynb_checkpoints",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".tox",
        ".DS_Store",
        ".idea",
        ".vscode",
    }
)
"""Names of folders and files that are never code to run."""


def pack(source: Path) -> bytes:
    """The zip archive of the folder `source`, or `source` itself if it is an archive. Raises `JobError`."""
    if source.is_dir():
        content = _zip(source)
    elif source.is_file() and zipfile.is_zipfile(source):
        content = source.read_bytes()
    else:
        raise JobError(
            "cluster.working_dir is neither a folder nor a zip file",
            saw=str(source),
            field="cluster.working_dir",
            remedy="Check the path; it counts from where you are.",
        )
    if len(content) > MAX_BYTES:
        raise JobError(
            "the job's own code is too large to be sent along",
            saw=f"{len(content) / 1024:.0f} KiB packed; the largest files: {_largest(content)}",
            allowed=f"{MAX_BYTES // 1024} KiB",
            field="cluster.working_dir",
            remedy="Put code into an image of your own (cluster.image) and data into object storage.",
        )
    return content


def _zip(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(folder.rglob("*"), key=lambda p: p.relative_to(folder).as_posix()):
            inside = path.relative_to(folder)
            if LEFT_OUT.isdisjoint(inside.parts) and path.suffix != ".pyc" and path.is_file():
                entry = zipfile.ZipInfo(PurePosixPath(inside).as_posix(), EPOCH)
                entry.external_attr = (0o755 if path.stat().st_mode & 0o100 else 0o644) << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, path.read_bytes())
        if not archive.namelist():
            raise JobError("cluster.working_dir holds no file", saw=str(folder), field="cluster.working_dir")
    return buffer.getvalue()


def _largest(content: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: -entry.compress_size)[:3]
    return ", ".join(f"{entry.filename} ({entry.compress_size / 1024:.0f} KiB)" for entry in entries)

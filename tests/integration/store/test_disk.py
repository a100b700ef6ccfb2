"""Disks that refuse: a folder that cannot be made, a full disk; nothing that was there is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mizzen.errors import StoreError
from mizzen.store.store import ModelStore

HERE = Path(__file__).parent

LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
import runpy
from pathlib import Path
from mizzen.errors import StoreError
from mizzen.store.store import ModelStore
draft = runpy.run_path(sys.argv[1])["draft"]("films", "run-2")
try:
    ModelStore(sys.argv[2]).publish(draft, Path(sys.argv[3]))
except StoreError as error:
    print(error)
"""
"""A process that may write no file larger than 1 MB: writing fails as it does on a full disk."""


def test_a_store_below_a_plain_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(StoreError, match="cannot open"):
        ModelStore(f"file://{tmp_path}/file/store")
    assert (tmp_path / "file").read_text() == "a file"


@pytest.mark.parametrize("blocked", ["blobs", "models"])
def test_a_store_that_refuses_a_write_loses_nothing(
    tmp_path: Path, draft: Any, export: Path, blocked: str
) -> None:
    store = ModelStore(f"file://{tmp_path}/store")
    (tmp_path / "store" / blocked).write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot write|cannot read|cannot list"):
        store.publish(draft, export)
    (tmp_path / "store" / blocked).unlink()
    assert store.models() == []
    assert store.publish(draft, export).version == 1
    assert store.verify() == []


def test_a_disk_that_fills_up_leaves_the_store_as_it_was(tmp_path: Path, draft: Any, export: Path) -> None:
    url = f"file://{tmp_path}/store"
    store = ModelStore(url)
    small = tmp_path / "small"
    small.mkdir()
    (small / "model.onnx").write_bytes(b"small")
    before = store.publish(draft, small)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(HERE / "publisher.py"), url, str(export)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cannot write" in done.stdout
    assert "File too large" in done.stdout
    assert store.versions("films") == [1]
    assert store.resolve("films") == before
    assert store.verify() == []
    assert store.publish(draft, export).version == 2

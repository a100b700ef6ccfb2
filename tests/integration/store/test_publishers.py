"""Publishers in processes of their own: many at once, and killed at each step; on disk and on S3."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mizzen.store import audit
from mizzen.store.manifest import Draft
from mizzen.store.store import ModelStore

Start = Callable[..., "subprocess.Popen[str]"]
PUBLISHERS, TURNS = 8, 3
STEPS = [
    *[("before", write) for write in (1, 2, 3, 4, 5)],
    *[("during", write) for write in (1, 3)],
    *[("after", write) for write in (1, 2, 3, 5)],
]
"""Writes 1 to 3 are the blobs (the second large, sent in parts), 4 is in the audit log, 5 is the manifest."""


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_eight_publishers_at_once_get_distinct_versions_and_lose_nothing(
    url: str, tmp_path: Path, start_publisher: Start
) -> None:
    processes = []
    for number in range(PUBLISHERS):
        folder = tmp_path / f"export-{number}"
        folder.mkdir()
        (folder / "own").write_text(f"bytes of {number}")
        (folder / "shared").write_bytes(b"the same for all" * 1000)
        processes.append(start_publisher(url, "films", number, TURNS, folder))
    assert [line(process) for process in processes] == ["ready"] * PUBLISHERS
    for process in processes:
        let_go(process)

    store = ModelStore(url)
    seen: set[int] = set()
    while any(process.poll() is None for process in processes):
        for version in set(store.versions("films")) - seen:
            manifest = store.manifest("films", version)
            assert content(store.fetch(manifest, tmp_path / "cache"))["own"].startswith(b"bytes of")
            seen.add(version)

    told = {number: process.communicate() for number, process in enumerate(processes)}
    assert {number: error for number, (_, error) in told.items() if error} == {}
    versions = {int(v): number for number, (out, _) in told.items() for v in out.split()}
    assert sorted(versions) == store.versions("films") == list(range(1, PUBLISHERS * TURNS + 1))
    for version, number in versions.items():
        manifest = store.manifest("films", version)
        assert manifest.lineage.run_id.startswith(f"{number}-")
        own = content(store.fetch(manifest, tmp_path / "cache"))["own"]
        assert own == f"bytes of {number}".encode()
    assert store.verify() == []


@pytest.mark.parametrize(("place", "write"), STEPS)
def test_a_publisher_killed_at_any_step_leaves_whole_versions_only(
    url: str, tmp_path: Path, export: Path, draft: Draft, start_publisher: Start, place: str, write: int
) -> None:
    process = start_publisher(url, "films", "killed", 1, export, place, write)
    assert line(process) == "ready"
    let_go(process)
    assert process.wait() == -signal.SIGKILL

    store = ModelStore(url)
    published = (place, write) == ("after", 5)
    assert store.versions("films") == ([1] if published else [])
    assert store.models() == (["films"] if published else [])
    assert store.verify() == []
    told = [(entry.action, entry.outcome) for entry in audit.entries(store.objects)]
    assert told == ([("version.publish", "begun")] if write == 5 else [])

    assert store.publish(draft, export).version == (2 if published else 1)
    for version in store.versions("films"):
        folder = store.fetch(store.manifest("films", version), tmp_path / "cache")
        assert content(folder) == content(export)
    assert store.verify() == []


def test_processes_that_fetch_at_once_share_one_cache(
    url: str, tmp_path: Path, export: Path, draft: Draft
) -> None:
    ModelStore(url).publish(draft, export)
    script = (
        "import sys; from pathlib import Path; from mizzen.store.store import ModelStore\n"
        "store = ModelStore(sys.argv[1]); manifest = store.resolve('films')\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(store.fetch(manifest, Path(sys.argv[2])))"
    )
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", script, url, str(tmp_path / "cache")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    assert [line(reader) for reader in readers] == ["ready"] * 4
    for reader in readers:
        let_go(reader)
    folders = {reader.communicate()[0].strip() for reader in readers}
    assert len(folders) == 1
    assert content(Path(folders.pop())) == content(export)
    assert not list((tmp_path / "cache").rglob(".new-*"))

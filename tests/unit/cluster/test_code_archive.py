"""A job's own code, packed: always the same bytes, nothing that is no code, not too large."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from mizzen.cluster.code_archive import MAX_BYTES, pack
from mizzen.errors import JobError


def names(content: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(content)).namelist()


def test_the_same_files_make_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "sub").mkdir(parents=True)
        for name in ("z.py", "a.py", "sub/m.py"):
            (tmp_path / folder / name).write_text(name)
    os.utime(tmp_path / "b" / "z.py", (1, 1))
    first, second = pack(tmp_path / "a"), pack(tmp_path / "b")
    assert first == second
    assert names(first) == ["a.py", "sub/m.py", "z.py"]


def test_what_is_no_code_stays_behind(tmp_path: Path) -> None:
    for name in (".git/config", ".venv/x.py", "src/__pycache__/m.pyc", "src/m.py", "src/old.pyc", "data.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert names(pack(tmp_path)) == ["data.csv", "src/m.py"]


def test_a_zip_file_is_sent_as_it_is(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.writestr("m.py", "x")
    assert pack(tmp_path / "code.zip") == (tmp_path / "code.zip").read_bytes()


def test_too_much_is_refused_with_the_largest_files(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(os.urandom(MAX_BYTES + 1))
    (tmp_path / "m.py").write_text("x")
    with pytest.raises(JobError, match=r"weights\.bin.*900 KiB.*image of your own"):
        pack(tmp_path)


def test_neither_a_folder_nor_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("x")
    for path in (tmp_path / "absent", tmp_path / "m.py"):
        with pytest.raises(JobError, match="neither a folder nor a zip file"):
            pack(path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="holds no file"):
        pack(tmp_path)

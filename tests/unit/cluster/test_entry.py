"""What a cluster runs for a job, as far as it goes without a cluster."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest

from mizzen import settings
from mizzen.cluster import code_archive, entry
from mizzen.errors import JobError
from mizzen.settings import Settings
from mizzen.store.runs import Runs

JOB = {"name": "digits", "workload": "digits", "training": {"steps": 3}}


def read(tmp_path: Path, **variables: str) -> Settings:
    return settings.read({"MIZZEN_HOME": str(tmp_path / "home"), **variables})


def zipped(file: Path, **names: str) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in names.items():
            archive.writestr(name.replace("__", "/"), content)
    return file


def test_the_job_comes_from_the_environment(tmp_path: Path) -> None:
    assert entry.job_of(read(tmp_path, MIZZEN_JOB=json.dumps(JOB))).training.steps == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "no job to run"),
        ("{", "no JSON"),
        ("[]", "JSON object"),
        ('{"name": "a", "workload": "digits"}', "training"),
    ],
)
def test_a_wrong_job_is_explained(tmp_path: Path, text: str | None, expected: str) -> None:
    variables = {} if text is None else {"MIZZEN_JOB": text}
    with pytest.raises(JobError, match=expected):
        entry.job_of(read(tmp_path, **variables))


def test_a_run_that_cannot_begin_is_recorded_and_ends_with_the_usual_exit_code(
    mizzen_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIZZEN_JOB", json.dumps({**JOB, "workload": "no-such"}))
    settings.current.cache_clear()
    assert entry.main(["--run", "a-run", "--place", "ray"]) == 3
    assert capsys.readouterr().err.startswith("error: ")
    record = Runs(settings.current().store_url).show("a-run")
    assert (record.state, record.place) == ("failed", "ray")
    assert "no-such" in (record.error or "")


def test_a_name_that_is_no_runs_writes_nothing(mizzen_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["--run", "../models"]) == 2
    assert "a run's id is wrong" in capsys.readouterr().err
    assert not (mizzen_home / "store").exists()


def test_code_that_the_client_packs_is_unpacked_as_it_was(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "tables").mkdir(parents=True)
    (source / "tables" / "sales.csv").write_text("a,b\n1,2\n")
    (source / "mine.py").write_text("x = 1\n")
    archive = tmp_path / "code.zip"
    archive.write_bytes(code_archive.pack(source))
    folder = entry.unpacked(archive, tmp_path / "there")
    assert (folder / "tables" / "sales.csv").read_text() == "a,b\n1,2\n"
    assert (folder / "mine.py").read_text() == "x = 1\n"


@pytest.mark.parametrize("name", ["../outside.py", "/outside.py", "a/../../outside.py", "a\\..\\outside.py"])
def test_a_zip_file_that_reaches_out_of_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("fine.py", "x = 1")
        archive.writestr(name, "x = 2")
    file = tmp_path / "code.zip"
    file.write_bytes(content.getvalue())
    with pytest.raises(JobError, match="stay below the folder"):
        entry.unpacked(file, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_a_link_and_a_bomb_and_no_zip_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(JobError, match="a link or a device"):
        entry.unpacked(tmp_path / "link.zip", tmp_path / "there")
    monkeypatch.setattr(entry, "MAX_CODE_BYTES", 10)
    with pytest.raises(JobError, match="11 bytes; allowed: at most 10"):
        entry.unpacked(zipped(tmp_path / "bomb.zip", a="x" * 11), tmp_path / "there")
    (tmp_path / "text.zip").write_text("no zip file")
    with pytest.raises(JobError, match="a zip file"):
        entry.unpacked(tmp_path / "text.zip", tmp_path / "there")
    with pytest.raises(JobError, match=r"missing\.zip"):
        entry.unpacked(tmp_path / "missing.zip", tmp_path / "there")

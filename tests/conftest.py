"""What holds for all tests: a home of their own, one thread each, and nothing left running.

Tests under `integration/` start servers that a whole module shares, so a module stays on one worker of
pytest-xdist (`--dist loadfile`).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import psutil
import pytest
from hypothesis import settings as hypothesis_settings

REPOSITORY = Path(__file__).resolve().parents[1]
INTEGRATION = REPOSITORY / "tests" / "integration"
LONGEST = (
    INTEGRATION / "test_quickstart.py",
    INTEGRATION / "observability" / "test_observability.py",
    INTEGRATION / "cluster" / "test_ray_jobs.py",
    INTEGRATION / "training" / "test_training.py",
    INTEGRATION / "cluster" / "test_serve_deploy.py",
)
GRACE_S = 15.0
"""How long processes that were told to end may take after the last test."""

# Two cores: pytest-xdist and Ray already use them. Set before torch is imported, for child processes too.
os.environ["OMP_NUM_THREADS"] = "1"

# How long one example takes says more about the machine's other work than about the code.
hypothesis_settings.register_profile("mizzen", deadline=None)
hypothesis_settings.load_profile("mizzen")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest; skip what needs a GPU where there is none, and what is run apart."""
    order = {path: number for number, path in enumerate(LONGEST)}
    items.sort(key=lambda item: (order.get(item.path, len(order)), not item.path.is_relative_to(INTEGRATION)))
    if not os.environ.get("MIZZEN_TESTS_LONG"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes long: `make test-long` runs it"))
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu:
        import torch

        if not torch.cuda.is_available():
            for item in on_gpu:
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes that are no text by their argument: a packer may write the time into them.

    Workers of pytest-xdist must collect the same names, and they do not start in the same second.
    """
    return argname if isinstance(val, bytes) and not val.isascii() else None


@dataclass(frozen=True)
class PrometheusTools:
    """Programs of Prometheus and Alertmanager."""

    prometheus: Path
    promtool: Path
    alertmanager: Path
    amtool: Path


@pytest.fixture(scope="session")
def prometheus_tools() -> PrometheusTools:
    """The programs that `make .tools/.installed` has brought."""
    folder = REPOSITORY / ".tools" / "prometheus"
    if not (folder / ".installed").is_file():
        _cannot_run(
            f"no Prometheus and Alertmanager in {folder}: `make .tools/.installed` brings them, or says what"
            " to install"
        )
    return PrometheusTools(**{name: folder / "bin" / name for name in PrometheusTools.__annotations__})


def _cannot_run(reason: str) -> NoReturn:
    """Skip the test, or fail it where every test must run."""
    if os.environ.get("MIZZEN_TESTS_REQUIRE_ALL"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def mizzen_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty `MIZZEN_HOME` for each test; only fetched samples are shared, in `.mizzen` of the checkout."""
    from mizzen import logs, settings

    shared = REPOSITORY / ".mizzen" / "datasets"
    shared.mkdir(parents=True, exist_ok=True)
    home = tmp_path / "mizzen-home"
    home.mkdir()
    (home / "datasets").symlink_to(shared)
    monkeypatch.setenv("MIZZEN_HOME", str(home))
    monkeypatch.delenv("MIZZEN_STORE", raising=False)
    settings.current.cache_clear()
    logs.stop()  # a file that an earlier test has begun lies in that test's home
    return home


@pytest.fixture(scope="session", autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Fail, and end them, if processes that the tests started outlive the last test.

    They are found by a variable in their environment: that is inherited, also by a process whose parent has
    died and that is nobody's child any more.
    """
    mark = f"{os.getpid()}-{uuid.uuid4()}"
    os.environ["MIZZEN_TEST_SESSION"] = mark
    yield
    _, alive = psutil.wait_procs(_started_with(mark), timeout=GRACE_S)
    left = [f"{process.pid}: {' '.join(process.cmdline()) or process.name()}" for process in alive]
    for process in alive:
        process.kill()
    assert not left, "still running after the last test:\n" + "\n".join(left)


def _started_with(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MIZZEN_TEST_SESSION") == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # gone meanwhile, a zombie, or not ours
            continue
    return found

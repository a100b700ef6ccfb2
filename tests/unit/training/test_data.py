"""Prepared data on its way through the store to another machine, which has a home of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mizzen import settings
from mizzen.errors import IntegrityError, TrainingError
from mizzen.settings import Settings
from mizzen.store.objects import Objects
from mizzen.training import data
from mizzen.workloads.contract import Prepared


@pytest.fixture
def machine(tmp_path: Path) -> Callable[[str], Settings]:
    def home(name: str) -> Settings:
        return settings.read(
            {"MIZZEN_HOME": f"{tmp_path}/{name}", "MIZZEN_STORE": f"file://{tmp_path}/store"}
        )

    return home


@pytest.fixture
def prepared(machine: Callable[[str], Settings]) -> Prepared:
    folder = machine("head").prepared_dir / "new"
    (folder / "below").mkdir(parents=True)
    (folder / data.REPORT).write_text(json.dumps({"rows_read": 5, "rows_kept": 4}))
    (folder / "below" / "values.npy").write_bytes(bytes(range(256)) * 5000)
    (folder / "empty").touch()
    return data.opened(folder.rename(folder.parent / data.folder_digest(folder)))


def test_another_machine_receives_the_same_bytes(
    machine: Callable[[str], Settings], prepared: Prepared
) -> None:
    data.share(prepared, "a-run", machine("head"))
    found = data.received("a-run", prepared.digest, machine("worker"))
    assert found.folder == machine("worker").prepared_dir / prepared.digest
    assert found.report == prepared.report
    assert data.folder_digest(found.folder) == prepared.digest
    data.unshare("a-run", machine("head"))
    assert Objects(machine("head").store_url).sizes_bytes("runs") == {}
    assert data.received("a-run", prepared.digest, machine("worker")) == found  # its own copy stays


def test_processes_of_a_machine_that_want_it_at_once_all_get_it(
    machine: Callable[[str], Settings], prepared: Prepared
) -> None:
    data.share(prepared, "a-run", machine("head"))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: data.received("a-run", prepared.digest, machine("worker")), range(8)))
    assert len({one.folder for one in found}) == 1
    assert data.folder_digest(found[0].folder) == prepared.digest


def test_a_machine_that_sees_another_store_says_so(
    machine: Callable[[str], Settings], prepared: Prepared
) -> None:
    with pytest.raises(TrainingError, match=r"not in the store that .* sees.*Set MIZZEN_STORE"):
        data.received("a-run", prepared.digest, machine("worker"))


def test_data_that_was_changed_on_the_way_is_not_trained_on(
    machine: Callable[[str], Settings], prepared: Prepared
) -> None:
    data.share(prepared, "a-run", machine("head"))
    Objects(machine("head").store_url).write("runs/a-run/prepared/empty", b"not empty")
    with pytest.raises(IntegrityError, match="not what the run has put there"):
        data.received("a-run", prepared.digest, machine("worker"))
    assert not (machine("worker").prepared_dir / prepared.digest).exists()

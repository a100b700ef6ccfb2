"""Event files, read back record by record: the framing by hand, the content with TensorBoard's messages."""

from __future__ import annotations

import resource
import signal
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from mizzen.store.history import Point
from mizzen.store.runs import RunRecord
from mizzen.training.history import Follower
from mizzen.training.tensorboard import TensorBoard, flat, write

JOB: dict[str, Any] = {
    "name": "digits",
    "training": {"steps": 9, "learning_rate": 0.5, "epochs": None, "betas": [0.9, 0.99]},
    "publish": {"weights": True},
}


def crc32c(data: bytes) -> int:
    """RFC 3720, Castagnoli's polynomial."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    """As TFRecord files store checksums."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def events(folder: Path) -> Iterator[Event]:
    """The events of all files in `folder` in the order in which TensorBoard reads them."""
    for file in sorted(folder.iterdir()):
        assert file.name.startswith("events.out.tfevents.")
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            assert data[8:12] == masked(data[:8])
            body = data[12 : 12 + length]
            assert data[12 + length : 16 + length] == masked(body)
            yield Event.FromString(body)
            data = data[16 + length :]


def scalars(folder: Path) -> list[tuple[int, str, float]]:
    """As TensorBoard shows them: a start makes void what came before from that step on."""
    found: list[tuple[int, str, float]] = []
    for event in events(folder):
        if event.session_log.status == SessionLog.START:
            found = [scalar for scalar in found if scalar[0] < event.step]
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.append((event.step, value.tag, round(value.simple_value, 6)))
    return found


def step(number: int, loss: float) -> Point:
    return Point(step=number, time_s=1000.0 + number, loss=loss)


def validation(number: int, value: float) -> Point:
    return Point(step=number, time_s=1000.5 + number, metrics={"ndcg@10": value})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "a-run" / "tensorboard"


@pytest.fixture
def attempt(folder: Path) -> Iterator[Callable[[], Follower]]:
    """Begins an attempt of the run."""
    begun: list[Follower] = []

    def begin() -> Follower:
        begun.append(TensorBoard(folder, JOB))
        return begun[-1]

    yield begin
    now = datetime.now(UTC)
    record = RunRecord(run_id="a-run", place="local", state="succeeded", created_at=now, updated_at=now)
    for follower in begun:
        follower.end(record)


def test_known_checksums() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_points_become_scalars_at_their_steps_and_times(folder: Path) -> None:
    figures = {"learning_rate": 0.25, "step_seconds": 0.125, "tokens_per_second": 4096.0}
    one = Point(step=1, time_s=1001.0, loss=2.5, figures=figures)
    write(folder, JOB, [validation(0, 0.25), one, validation(1, 0.5)])
    found = list(events(folder))
    assert found[0].file_version == "brain.Event:2"
    assert scalars(folder) == [
        (0, "validation/ndcg@10", 0.25),
        (1, "train/loss", 2.5),
        (1, "train/learning_rate", 0.25),
        (1, "time/step_seconds", 0.125),
        (1, "throughput/tokens_per_second", 4096.0),
        (1, "validation/ndcg@10", 0.5),
    ]
    assert [event.wall_time for event in found if event.summary.value][-3:] == [1000.5, 1001.0, 1001.5]


def test_the_job_is_there_as_text_and_as_hyper_parameters(folder: Path) -> None:
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    write(folder, JOB, [validation(0, 0.25)])
    values = {value.tag: value for event in events(folder) for value in event.summary.value}
    assert b'"learning_rate": 0.5' in values["job/text_summary"].tensor.string_val[0]
    data = {
        tag: HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for tag, value in values.items()
        if value.metadata.plugin_data.plugin_name == "hparams"
    }
    given = data["_hparams_/session_start_info"].session_start_info.hparams
    assert given["training.learning_rate"].number_value == 0.5
    judged = [info.name.tag for info in data["_hparams_/experiment"].experiment.metric_infos]
    assert judged == ["train/loss", "validation/ndcg@10"]


def test_a_job_file_has_one_name_for_each_value() -> None:
    assert flat(JOB) == {
        "name": "digits",
        "training.steps": 9,
        "training.learning_rate": 0.5,
        "training.betas": "[0.9, 0.99]",
        "publish.weights": True,
    }


def test_what_a_run_takes_again_counts_within_an_attempt_and_in_the_next(
    folder: Path, attempt: Callable[[], Follower]
) -> None:
    first, second = attempt(), attempt()
    first.take([step(1, 1.0), step(2, 2.0), validation(2, 0.5), step(3, 3.0)])
    first.take([step(3, 3.5), step(4, 4.0)])
    second.take([step(4, 4.5), step(5, 5.0)])
    assert len(list(folder.iterdir())) == 2
    assert scalars(folder) == [
        (1, "train/loss", 1.0),
        (2, "train/loss", 2.0),
        (2, "validation/ndcg@10", 0.5),
        (3, "train/loss", 3.5),
        (4, "train/loss", 4.5),
        (5, "train/loss", 5.0),
    ]


def test_others_see_the_events_while_the_run_goes_on(folder: Path, attempt: Callable[[], Follower]) -> None:
    follower = attempt()
    assert not folder.exists()  # a run without steps leaves no file
    follower.take([step(1, 1.0)])
    assert scalars(folder) == [(1, "train/loss", 1.0)]


def test_a_folder_that_cannot_be_written_costs_the_run_nothing_and_is_told_once(
    folder: Path, attempt: Callable[[], Follower], caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where the folder should be")
    follower = attempt()
    follower.take([step(1, 1.0)])
    follower.take([step(2, 1.0)])
    assert len([record for record in caplog.records if "no more TensorBoard" in record.message]) == 1


def test_a_disk_that_fills_up_ends_the_file_and_not_the_run(
    folder: Path, attempt: Callable[[], Follower], caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir(parents=True)
    follower = attempt()
    follower.take([step(1, 1.0)])
    (file,) = folder.iterdir()
    size_bytes = file.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        follower.take([step(2, 1.0)])
        follower.take([step(3, 1.0)])
        assert not any(Path(one.path) == file for one in psutil.Process().open_files())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert scalars(folder) == [(1, "train/loss", 1.0)]
    assert [record.message.split(" of this run")[0] for record in caplog.records] == [
        "no more TensorBoard events"
    ]

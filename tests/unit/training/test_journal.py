"""What a run leaves in the store while it runs, however it ends."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from pathlib import Path

import pytest

from mizzen import settings
from mizzen.errors import GateError, NoticeError, StoreError, TrainingError
from mizzen.settings import Settings
from mizzen.store.objects import Objects
from mizzen.store.runs import MAX_EVENTS, RunRecord, Runs
from mizzen.training import journal
from mizzen.training.job import TrainJob, parse
from mizzen.training.journal import Audience, kept
from mizzen.training.mailbox import Notice, Progress
from mizzen.training.sigterm import heeded


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return settings.read({"MIZZEN_HOME": str(tmp_path)})


@pytest.fixture
def job() -> TrainJob:
    return parse({"name": "digits", "workload": "digits", "training": {"steps": 9}}, "the test's job")


class Listener:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.logged: list[str] = []
        self.seen: list[Progress] = []

    @property
    def audience(self) -> Audience:
        return Audience(self.said.append, self.seen.append, self.logged.append)


@pytest.fixture
def listener() -> Listener:
    return Listener()


def record_of(home: Settings) -> RunRecord:
    return Runs(home.store_url).show("a-run")


def history_of(home: Settings) -> list[tuple[int, float | None, dict[str, float]]]:
    return [(p.step, p.loss, dict(p.metrics)) for p in Runs(home.store_url).history("a-run")]


def log_of(home: Settings) -> list[str]:
    return [line.split(" ", 1)[1] for line in Runs(home.store_url).log("a-run").new_lines()]


def test_a_run_that_succeeds_leaves_what_it_published(
    home: Settings, job: TrainJob, listener: Listener
) -> None:
    with kept(job, "a-run", "local", home, listener.audience) as run:
        run.say("preparing data")
        run.watch(Progress(0, 9, metrics={"accuracy": 0.1}))
        run.watch(Progress(1, 9, loss=2.5))
        run.watch(Progress(2, 9, loss=2.4))  # too soon for another line
        run.watch(Progress(9, 9, metrics={"accuracy": 0.9}))
        run.end("succeeded", model="digits", version=3)
    record = record_of(home)
    assert (record.state, record.step, record.num_steps, record.attempt) == ("succeeded", 9, 9, 1)
    assert (record.model, record.version, record.error) == ("digits", 3, None)
    assert (record.initial_metrics, record.metrics) == ({"accuracy": 0.1}, {"accuracy": 0.9})
    assert record.started_at and record.ended_at and record.started_at <= record.ended_at
    assert (record.pid, record.job["training"]["steps"]) == (os.getpid(), 9)
    lines = [
        "preparing data",
        "step 0 of 9: validation accuracy 0.1",
        "step 1 of 9: loss 2.5",
        "step 9 of 9: validation accuracy 0.9",
    ]
    assert log_of(home) == lines
    assert [line.split(" ", 1)[1] for line in listener.logged] == lines
    assert listener.said == ["preparing data"]
    assert len(listener.seen) == 4
    assert history_of(home) == [
        (0, None, {"accuracy": 0.1}),
        (1, 2.5, {}),
        (2, 2.4, {}),
        (9, None, {"accuracy": 0.9}),
    ]
    assert len(list((home.runs_dir / "a-run" / "tensorboard").iterdir())) == 1


def test_others_see_it_while_it_runs(home: Settings, job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    written = threading.Event()
    write = Runs.write

    def and_tell(self: Runs, record: RunRecord) -> None:
        write(self, record)
        written.set()

    monkeypatch.setattr(Runs, "write", and_tell)
    with kept(job, "a-run", "ray", home, Listener().audience) as run:
        assert written.wait(20)
        record = record_of(home)
        assert (record.state, record.place, record.ended_at) == ("running", "ray", None)
        run.end("succeeded")


def test_a_run_that_is_over_is_not_held_up(
    home: Settings, job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "WRITE_EVERY_S", 600.0)
    with kept(job, "a-run", "local", home, Listener().audience) as run:
        run.end("succeeded")
    assert not any(thread.name == "mizzen-journal" for thread in threading.enumerate())
    assert record_of(home).ended


def test_a_run_that_fails_leaves_a_sentence_and_the_lines_below_it(
    home: Settings, job: TrainJob, listener: Listener
) -> None:
    with pytest.raises(TrainingError), kept(job, "a-run", "local", home, listener.audience):
        raise TrainingError("worker 1 of the run failed: ValueError: no\n  File x, line 3")
    record = record_of(home)
    assert (record.state, record.error) == ("failed", "worker 1 of the run failed: ValueError: no")
    assert record.traceback == ("  File x, line 3",)
    assert log_of(home) == ["failed: worker 1 of the run failed: ValueError: no", "  File x, line 3"]


def test_a_file_name_that_is_no_utf_8_does_not_keep_the_end_from_being_written(
    home: Settings, job: TrainJob, listener: Listener
) -> None:
    with pytest.raises(OSError), kept(job, "a-run", "local", home, listener.audience):
        raise OSError(f"no such file: {os.fsdecode(b'caf' + bytes([0xE9]) + b'.csv')}")
    record = record_of(home)
    assert record.state == "failed"
    assert record.error is not None and "caf" in record.error


def test_an_error_that_nobody_foresaw_leaves_its_traceback(
    home: Settings, job: TrainJob, listener: Listener
) -> None:
    with pytest.raises(ZeroDivisionError), kept(job, "a-run", "local", home, listener.audience):
        _ = 1 / 0
    record = record_of(home)
    assert (record.state, record.error) == ("failed", "ZeroDivisionError: division by zero")
    assert any("test_journal.py" in line for line in record.traceback)


@pytest.mark.parametrize("replaced", [False, True], ids=["ours", "Ray's"])
def test_sigterm_ends_it_as_cancelled(home: Settings, job: TrainJob, replaced: bool) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, kept(job, "a-run", "local", home, Listener().audience):
        if replaced:
            signal.signal(signal.SIGTERM, lambda number, frame: (_ for _ in ()).throw(SystemExit(number)))
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143
    assert (record_of(home).state, record_of(home).error) == ("cancelled", "it was stopped")
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt(), None), (SystemExit(0), 130)])
def test_ctrl_c_ends_it_as_cancelled(
    home: Settings, job: TrainJob, raised: BaseException, code: int | None
) -> None:
    with pytest.raises(type(raised)) as ended, kept(job, "a-run", "local", home, Listener().audience):
        raise raised
    assert getattr(ended.value, "code", None) == code
    assert (record_of(home).state, record_of(home).error) == ("cancelled", "it was interrupted")


def test_a_second_attempt_is_counted_and_keeps_what_the_first_has_measured(
    home: Settings, job: TrainJob, listener: Listener
) -> None:
    with pytest.raises(GateError), kept(job, "a-run", "ray", home, listener.audience) as run:
        run.watch(Progress(0, 9, metrics={"accuracy": 0.1}))
        raise GateError("refused")
    first = record_of(home)
    with kept(job, "a-run", "ray", home, listener.audience) as run:
        run.watch(Progress(1, 9, loss=2.5))
        run.end("succeeded", model="digits", version=1)
    second = record_of(home)
    assert history_of(home) == [(0, None, {"accuracy": 0.1}), (1, 2.5, {})]
    assert (second.attempt, second.state, second.error, second.traceback) == (2, "succeeded", None, ())
    assert (second.created_at, second.initial_metrics) == (first.created_at, {"accuracy": 0.1})
    assert log_of(home)[0].startswith("step 0 of 9")


def test_secrets_in_the_environment_do_not_reach_the_log_or_the_record(
    home: Settings, job: TrainJob, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    with pytest.raises(RuntimeError), kept(job, "a-run", "local", home, listener.audience):
        raise RuntimeError("the key wJalrXUtnFEMI/K7MDENG is refused")
    written = b"".join(
        Objects(home.store_url).read(f"runs/a-run/{name}")
        for name in Objects(home.store_url).sizes_bytes("runs/a-run")
    )
    assert b"the key *** is refused" in written
    assert b"wJalr" not in written
    assert not any("wJalr" in line for line in listener.logged)


def test_a_job_file_is_on_record_without_its_secrets_and_as_utf_8_can_say_it(
    home: Settings, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKE_PASSWORD", "hunter2hunter2")
    extra = {"nvme_path": f"s3://me:a-key@{os.fsdecode(bytes([0xE9]))}", "more": [{"of": "hunter2hunter2"}]}
    job = parse(
        {"name": "digits", "workload": "digits", "training": {"steps": 9}, "deepspeed": {"extra": extra}},
        "the test's job",
    )
    with kept(job, "a-run", "local", home, listener.audience) as run:
        run.watch(Progress(1, 9, loss=2.5))
        run.end("succeeded")
    shown = {"nvme_path": "s3://***@\\udce9", "more": [{"of": "***"}]}
    assert record_of(home).job["deepspeed"]["extra"] == shown
    (events,) = (home.runs_dir / "a-run" / "tensorboard").iterdir()
    assert b"s3://***@" in events.read_bytes()
    assert b"hunter2" not in events.read_bytes()


def test_a_store_that_is_away_does_not_stop_the_run(
    home: Settings, job: TrainJob, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "WRITE_EVERY_S", 0.01)
    (home.home / "store").mkdir()
    in_the_way = home.home / "store" / "runs"
    in_the_way.write_text("a file where the folder should be")
    tried = threading.Event()

    def told(line: str) -> None:
        listener.said.append(line)
        if "the run goes on" in line:
            tried.set()

    with kept(job, "a-run", "local", home, Audience(told, listener.seen.append)) as run:
        run.say("one")
        run.watch(Progress(1, 9, loss=2.5))
        assert tried.wait(20)
        run.watch(Progress(2, 9, loss=2.4))
        in_the_way.unlink()
        run.say("two")
        run.end("succeeded", model="digits", version=1)
    assert sum("the run goes on" in line for line in listener.said) == 1
    assert record_of(home).state == "succeeded"
    assert [event.kind for event in record_of(home).events] == ["store_away", "store_back"]
    log = log_of(home)
    assert sum("the run goes on" in line for line in log) == 1  # on a cluster people see the log alone
    assert [line for line in log if line in ("one", "two")] == ["one", "two"]
    assert history_of(home) == [(1, 2.5, {}), (2, 2.4, {})]


def test_a_store_that_is_back_only_when_the_run_ends_is_in_its_history_too(
    home: Settings, job: TrainJob, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, away = Runs.write, threading.Event()

    def at_the_end_alone(runs: Runs, record: RunRecord) -> None:
        if not record.ended:
            away.set()
            raise StoreError("the store is away")
        write(runs, record)

    monkeypatch.setattr(Runs, "write", at_the_end_alone)
    with kept(job, "a-run", "local", home, listener.audience) as run:
        assert away.wait(20)
        run.end("succeeded", model="digits", version=1)
    assert [event.kind for event in record_of(home).events] == ["store_away", "store_back"]
    assert "the run's record is written again" in log_of(home)


def test_what_happens_stands_in_the_record_and_the_log_with_its_time(
    home: Settings, job: TrainJob, listener: Listener
) -> None:
    with kept(job, "a-run", "local", home, listener.audience) as run:
        run.event("worker_failed", "worker 1 was killed")
        run.event("resumed", "after step 8")
        run.end("succeeded")
    record = record_of(home)
    assert [(event.kind, event.text) for event in record.events] == [
        ("worker_failed", "worker 1 was killed"), ("resumed", "after step 8"),
    ]  # fmt: skip
    assert record.created_at <= record.events[0].time <= record.events[1].time
    assert "worker 1 was killed" in log_of(home)


def test_the_last_events_are_kept_also_those_of_an_earlier_attempt(home: Settings, job: TrainJob) -> None:
    for attempt in (1, 2):
        with kept(job, "a-run", "local", home, Listener().audience) as run:
            for number in range(MAX_EVENTS - 50):
                run.event("skipped", f"{attempt}: {number}")
            run.end("succeeded")
    events = record_of(home).events
    assert len(events) == MAX_EVENTS
    assert events[-1].text == f"2: {MAX_EVENTS - 51}"
    assert sum(event.text.startswith("1:") for event in events) == 50


def test_an_outage_of_the_store_is_told_once_by_whoever_notices_it_first(
    home: Settings, job: TrainJob, listener: Listener
) -> None:
    kinds: list[str] = []
    audience = dataclasses.replace(listener.audience, event=kinds.append)
    with kept(job, "a-run", "local", home, audience) as run:
        run.event("store_back", "of nothing")
        for _ in range(2):
            run.event("store_away", "a checkpoint")
            run.event("store_away", "the record")
            run.event("store_back", "the record")
            run.event("store_back", "a checkpoint")
        run.end("succeeded")
    assert kinds == ["store_away", "store_back"] * 2
    assert [event.kind for event in record_of(home).events] == kinds


def test_the_first_sigterm_of_a_run_that_trains_is_a_notice_and_the_second_ends_it(
    home: Settings, job: TrainJob
) -> None:
    notice = Notice()
    with (
        pytest.raises(SystemExit) as ended,
        kept(job, "a-run", "local", home, Listener().audience) as run,
        heeded(run, notice, notice_s=600.0),
    ):
        signal.raise_signal(signal.SIGTERM)
        assert notice.given.is_set()
        assert run.record.state == "cancelled"
        run.event("notice", "a checkpoint of step 8")
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143
    texts = [event.text for event in record_of(home).events]
    assert texts == ["the run was told to end; it has 600 s to write a checkpoint", "a checkpoint of step 8"]


def test_a_notice_ends_the_process_when_its_time_is_over(home: Settings, job: TrainJob) -> None:
    with (
        pytest.raises(SystemExit) as ended,
        kept(job, "a-run", "local", home, Listener().audience) as run,
        heeded(run, Notice(), notice_s=0.01),
    ):
        signal.raise_signal(signal.SIGTERM)
        threading.Event().wait(60)
    assert ended.value.code == 143


def test_a_run_that_has_ended_on_notice_is_cancelled(home: Settings, job: TrainJob) -> None:
    with pytest.raises(SystemExit) as ended, kept(job, "a-run", "local", home, Listener().audience):
        raise NoticeError("the run was stopped", saw="step 8")
    assert ended.value.code == 143
    record = record_of(home)
    assert (record.state, record.error) == ("cancelled", "it was stopped")
    assert "step 8" in record.events[-1].text


def test_a_run_that_could_not_begin_is_recorded_too(home: Settings) -> None:
    journal.failed_before("a-run", "kubernetes", home, TrainingError("no such workload"))
    record = record_of(home)
    assert (record.state, record.place, record.error) == ("failed", "kubernetes", "no such workload")
    assert log_of(home) == ["failed: no such workload"]


def test_a_later_attempt_that_could_not_begin_forgets_nothing_of_the_first(
    home: Settings, job: TrainJob
) -> None:
    with pytest.raises(GateError), kept(job, "a-run", "ray", home, Listener().audience) as run:
        run.watch(Progress(0, 9, metrics={"accuracy": 0.1}))
        raise GateError("refused")
    first = record_of(home)
    journal.failed_before("a-run", "ray", home, TrainingError("no cluster"))
    second = record_of(home)
    assert (second.attempt, second.state, second.error) == (2, "failed", "no cluster")
    assert (second.created_at, second.job, second.initial_metrics) == (
        first.created_at,
        first.job,
        {"accuracy": 0.1},
    )
    with kept(job, "a-run", "ray", home, Listener().audience) as run:
        assert run.record.attempt == 3
        run.end("succeeded")


def test_a_store_that_is_away_hides_no_error_of_a_run_that_could_not_begin(tmp_path: Path) -> None:
    in_the_way = tmp_path / "store"
    in_the_way.write_text("a file where the folder should be")
    away = settings.read({"MIZZEN_HOME": str(tmp_path), "MIZZEN_STORE": f"file://{in_the_way}/below"})
    journal.failed_before("a-run", "kubernetes", away, TrainingError("no such workload"))

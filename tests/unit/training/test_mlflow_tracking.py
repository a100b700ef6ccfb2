"""Runs as MLflow has them: in its own file store, and with servers that are away, silent or refuse."""

from __future__ import annotations

import http.server
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mizzen import settings
from mizzen.errors import InputError
from mizzen.settings import Settings
from mizzen.store.manifest import (
    Draft,
    FileEntry,
    GateReport,
    Lineage,
    Manifest,
    ParityResult,
    make_manifest,
)
from mizzen.store.runs import Runs
from mizzen.training import mlflow_tracking
from mizzen.training.job import TrainJob, parse
from mizzen.training.journal import Audience, kept
from mizzen.training.mailbox import Progress

Configured = Callable[[str], Settings]


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configured:
    """Settings with an MLflow; its own environment is as nobody had touched it."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for name in mlflow_tracking.ENVIRONMENT:
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    return lambda url: settings.read({"MIZZEN_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": url})


@pytest.fixture
def job() -> TrainJob:
    training = {"steps": 9, "learning_rate": 0.25}
    return parse({"name": "digits", "workload": "digits", "training": training}, "the test's job")


@pytest.fixture
def manifest() -> Manifest:
    """A third version, whose gate has passed."""
    parity = ParityResult(probe="batch 2", max_abs=1e-6, mean_abs=1e-7, tolerance=1e-4, passed=True)
    gate = GateReport(parity=(parity,), quality=None, precision="fp32", provider="CPU", passed=True)
    lineage = Lineage(
        job={}, data_digest="d" * 64, data_report={}, run_id="a-run", code_version="0.1.0", world_size=1,
        deepspeed={}, libraries={},
    )  # fmt: skip
    draft = Draft(
        name="digits", workload="digits", precision="fp32", quality={"accuracy": 0.75}, gate=gate,
        lineage=lineage,
    )  # fmt: skip
    files = (FileEntry(path="model.onnx", sha256="0" * 64, size_bytes=1),)
    return make_manifest(draft, files, version=3, created_at=datetime.now(UTC), claim="c")


class Heard:
    """What people are told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.told = threading.Event()

    def say(self, line: str) -> None:
        self.lines.append(line)
        if "MLflow" in line:
            self.told.set()

    @property
    def audience(self) -> Audience:
        return Audience(self.say, lambda _: None)


def only_run(url: str, experiment: str = "digits") -> Any:
    from mlflow import MlflowClient

    client = MlflowClient(url)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert len(found) == 1
    return found[0], lambda name: [
        (metric.step, metric.value) for metric in client.get_metric_history(found[0].info.run_id, name)
    ]


def test_mlflow_has_the_job_the_curves_the_version_and_the_end(
    tmp_path: Path, configured: Configured, job: TrainJob, manifest: Manifest
) -> None:
    home = configured(f"file://{tmp_path}/mlflow")
    with kept(job, "a-run", "local", home, Heard().audience) as run:
        run.watch(Progress(0, 9, metrics={"ndcg@10": 0.25}))
        run.watch(Progress(1, 9, loss=2.5, figures={"learning_rate": 0.5}))
        run.watch(Progress(9, 9, loss=1.5, figures={"learning_rate": 0.25}))
        run.published(manifest)
        run.end("succeeded")
    tracked, history = only_run(f"file://{tmp_path}/mlflow")
    assert (tracked.info.status, tracked.info.run_name) == ("FINISHED", "a-run")
    assert tracked.data.params["training.learning_rate"] == "0.25"
    assert tracked.data.params["workload"] == "digits"
    assert history("train/loss") == [(1, 2.5), (9, 1.5)]
    assert history("train/learning_rate") == [(1, 0.5), (9, 0.25)]
    assert history("validation/ndcg_at_10") == [(0, 0.25)]
    assert history("test/accuracy") == [(9, 0.75)]
    tags = {key[7:]: text for key, text in tracked.data.tags.items() if key.startswith("mizzen.")}
    assert (tags["run_id"], tags["state"], tags["attempts"]) == ("a-run", "succeeded", "1")
    assert (tags["model"], tags["model_version"], tags["gate"]) == ("digits", "3", "passed")
    assert tags["gate_report"].startswith("gate passed")
    assert tags["data_digest"] and tags["model_digest"] and tags["code_version"]


def test_a_later_attempt_goes_on_with_the_same_run(
    tmp_path: Path, configured: Configured, job: TrainJob
) -> None:
    home = configured(f"file://{tmp_path}/mlflow")
    with pytest.raises(ValueError), kept(job, "a-run", "ray", home, Heard().audience) as run:
        run.watch(Progress(1, 9, loss=2.5))
        raise ValueError("no")
    tracked, _ = only_run(f"file://{tmp_path}/mlflow")
    assert tracked.info.status == "FAILED"
    assert tracked.data.tags["mizzen.error"] == "ValueError: no"
    longer = job.model_copy(update={"training": job.training.model_copy(update={"steps": 12})})
    with kept(longer, "a-run", "ray", home, Heard().audience) as run:
        run.watch(Progress(2, 12, loss=1.5))
        run.end("succeeded")
    tracked, history = only_run(f"file://{tmp_path}/mlflow")
    assert history("train/loss") == [(1, 2.5), (2, 1.5)]
    assert tracked.info.status == "FINISHED"
    assert (tracked.data.tags["mizzen.attempts"], tracked.data.tags["mizzen.error"]) == ("2", "")


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://someone:hunter2hunter2@127.0.0.1:{listening.getsockname()[1]}?key=hunter2hunter2"


@pytest.fixture
def closed() -> str:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://someone:hunter2hunter2@127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("server", ["closed", "silent"])
def test_a_server_that_is_away_costs_the_run_nothing_and_is_told_without_its_password(
    server: str,
    configured: Configured,
    job: TrainJob,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(mlflow_tracking, "RETRY_EVERY_S", 0.01)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    home, heard = configured(request.getfixturevalue(server)), Heard()
    with kept(job, "a-run", "local", home, heard.audience) as run:
        run.watch(Progress(1, 9, loss=2.5))
        assert heard.told.wait(20)
        run.end("succeeded")
    assert Runs(home.store_url).show("a-run").state == "succeeded"
    about = [line for line in heard.lines if "MLflow" in line]
    assert [line.split(":", 3)[0] for line in about] == ["MLflow at http"] * 2
    assert "does not take what it is sent now, the run goes on" in about[0]
    assert about[1].endswith("has not got everything of this run")
    log = list(Runs(home.store_url).log("a-run").new_lines())
    assert [line.split(" ", 1)[1] for line in log if "MLflow" in line] == about  # also what is said last
    said = "\n".join([*heard.lines, *log, *capfd.readouterr()])
    assert "hunter2" not in said


def test_what_a_server_that_was_away_has_missed_is_sent_later(
    tmp_path: Path, configured: Configured, job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.tracking.file_store import FileStore

    away = threading.Event()
    away.set()
    log_batch = FileStore.log_batch

    def unless_away(self: Any, *given: Any, **named: Any) -> None:
        if away.is_set():
            raise ConnectionError("nobody is there")
        log_batch(self, *given, **named)

    monkeypatch.setattr(FileStore, "log_batch", unless_away)
    monkeypatch.setattr(mlflow_tracking, "RETRY_EVERY_S", 0.01)
    home, heard = configured(f"file://{tmp_path}/mlflow"), Heard()
    with kept(job, "a-run", "local", home, heard.audience) as run:
        run.watch(Progress(1, 9, loss=2.5))
        assert heard.told.wait(20)
        away.clear()
        run.watch(Progress(2, 9, loss=1.5))
        run.end("succeeded")
    tracked, history = only_run(f"file://{tmp_path}/mlflow")
    assert history("train/loss") == [(1, 2.5), (2, 1.5)]
    assert tracked.data.params["training.learning_rate"] == "0.25"
    assert sum("MLflow" in line for line in heard.lines) == 1


@pytest.mark.parametrize(
    ("status", "body", "said", "requests"),
    [
        (
            403,
            b'{"error_code": "PERMISSION_DENIED", "message": "Permission denied"}',
            "refuses this run, which goes on untracked: PERMISSION_DENIED",
            1,
        ),
        (429, b"slow down", "does not take what it is sent now, the run goes on: API request to", 2),
        (200, b'{"experiment": 3}', "does not take what it is sent now, the run goes on: Failed to parse", 2),
    ],
    ids=["refuses", "is asked too often", "answers nonsense"],
)
def test_a_server_that_refuses_is_left_alone_and_told_once(
    configured: Configured, job: TrainJob, status: int, body: bytes, said: str, requests: int
) -> None:
    asked: list[str] = []

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Silence."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home, heard = configured(f"http://127.0.0.1:{server.server_port}"), Heard()
        with kept(job, "a-run", "local", home, heard.audience) as run:
            run.watch(Progress(1, 9, loss=2.5))
            assert heard.told.wait(20)
            run.watch(Progress(2, 9, loss=2.5))
            run.end("succeeded")
        server.shutdown()
    assert [said in line for line in heard.lines if "MLflow" in line] == [True] + [False] * (requests - 1)
    assert len(asked) == requests  # at first, and, unless it was refused, once more at the end


def test_without_mlflow_the_run_is_refused_before_it_begins(
    configured: Configured, job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    home = configured("http://someone:hunter2hunter2@tracking.example")
    with (
        pytest.raises(InputError, match=r"pip install 'mizzen\[mlflow\]'") as refused,
        kept(job, "a-run", "kubernetes", home, Heard().audience),
    ):
        raise AssertionError("it must not begin")
    assert "hunter2" not in str(refused.value) and "http://tracking.example" in str(refused.value)
    assert Runs(home.store_url).show("a-run").state == "failed"  # on a cluster this is all that is left


def test_a_url_that_is_none_of_mlflows_is_refused_too(configured: Configured, job: TrainJob) -> None:
    with (
        pytest.raises(InputError, match="MLflow's client cannot track runs there"),
        kept(job, "a-run", "local", configured("gopher://tracking"), Heard().audience),
    ):
        raise AssertionError("it must not begin")


def test_nobody_who_did_not_ask_for_it_has_mlflow_imported(configured: Configured, job: TrainJob) -> None:
    home = settings.read({"MIZZEN_HOME": str(configured("x").home)})
    assert home.mlflow_url is None
    with kept(job, "a-run", "local", home, Heard().audience) as run:
        assert mlflow_tracking.follow(home, run.record, print) is None
        run.end("succeeded")

"""What is decided without a Ray cluster's own word; `tests/integration/cluster` asks a real one."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mizzen import settings, tracing
from mizzen.cluster.ray_jobs import RayJobs
from mizzen.errors import ClusterError, JobError, NotFoundError
from mizzen.store.runs import Place, RunRecord, Runs, State
from mizzen.training.job import parse

SELF, ELSEWHERE = socket.gethostname(), "pod-of-a-cluster"


class Answer:
    def __init__(self, nodes: list[tuple[str, str]]) -> None:
        self._nodes = nodes

    def raise_for_status(self) -> None:
        """It went well."""

    def json(self) -> Any:
        summary = [{"hostname": host, "raylet": {"state": state}} for host, state in self._nodes]
        return {"data": {"summary": summary}}


class Client:
    """A cluster with these nodes, which takes every job."""

    def __init__(self, *nodes: tuple[str, str]) -> None:
        self._nodes = list(nodes)
        self.submitted: list[dict[str, Any]] = []

    def _do_request(self, method: str, path: str) -> Answer:
        assert (method, path) == ("GET", "/nodes?view=summary")
        return Answer(self._nodes)

    def submit_job(self, **job: Any) -> None:
        self.submitted.append(job)

    def get_job_info(self, name: str) -> Any:
        if not self._nodes:
            raise ConnectionError("nobody is there")
        raise RuntimeError("Request failed with status code 404: no such job")


def jobs(client: Client, **variables: str) -> RayJobs:
    place = RayJobs("http://127.0.0.1:8265", settings.read(variables))
    place._connected = client  # type: ignore[assignment] # as far as it is used
    return place


def variables_of(client: Client) -> dict[str, str]:
    found: dict[str, str] = client.submitted[0]["runtime_env"]["env_vars"]
    return found


JOB = parse({"name": "digits", "workload": "digits", "training": {"steps": 3}}, "the test's job")


def test_a_job_is_submitted_under_its_runs_name(tmp_path: Path) -> None:
    client = Client((ELSEWHERE, "ALIVE"))
    run = jobs(client, MIZZEN_STORE="s3://bucket/models", MIZZEN_HOME=str(tmp_path)).submit(JOB)
    (job,) = client.submitted
    assert job["submission_id"] == run
    assert job["entrypoint"] == f"python -m mizzen.cluster.entry --run {run} --place ray"
    assert variables_of(client)["MIZZEN_STORE"] == "s3://bucket/models"
    assert set(variables_of(client)) == {"MIZZEN_STORE", "MIZZEN_JOB"}  # no credentials, no home


def test_a_store_on_this_machine_goes_to_a_cluster_on_this_machine(tmp_path: Path) -> None:
    client = Client((SELF, "ALIVE"), (SELF, "ALIVE"), (ELSEWHERE, "DEAD"))
    jobs(client, MIZZEN_STORE=f"file://{tmp_path}").submit(JOB)
    assert variables_of(client)["MIZZEN_STORE"] == f"file://{tmp_path}"


def test_a_store_on_this_machine_is_refused_for_a_cluster_behind_a_forwarded_port(tmp_path: Path) -> None:
    client = Client((ELSEWHERE, "ALIVE"))
    with pytest.raises(ClusterError, match=r"cannot reach it.*Set MIZZEN_STORE"):
        jobs(client, MIZZEN_STORE=f"file://{tmp_path}").submit(JOB)
    assert not client.submitted


def test_a_cluster_elsewhere_uses_its_own_store_if_nobody_has_named_one(tmp_path: Path) -> None:
    client = Client((ELSEWHERE, "ALIVE"), (SELF, "ALIVE"))
    jobs(client, MIZZEN_HOME=str(tmp_path)).submit(JOB)
    assert "MIZZEN_STORE" not in variables_of(client)


def test_code_of_ones_own_that_is_not_there_is_refused(tmp_path: Path) -> None:
    cluster = JOB.cluster.model_copy(update={"working_dir": tmp_path / "nowhere"})
    client = Client((SELF, "ALIVE"))
    with pytest.raises(JobError, match="neither a folder nor a zip file"):
        jobs(client, MIZZEN_HOME=str(tmp_path)).submit(JOB.model_copy(update={"cluster": cluster}))
    assert not client.submitted


def remembered(store: Path, place: Place, state: State, silent_s: float = 0.0) -> Runs:
    runs, then = Runs(f"file://{store}"), datetime.now(UTC) - timedelta(seconds=silent_s)
    runs.write(RunRecord(run_id="a-run", place=place, state=state, created_at=then, updated_at=then))
    return runs


@pytest.mark.parametrize("nodes", [[], [(ELSEWHERE, "ALIVE")]], ids=["away", "forgotten"])
@pytest.mark.parametrize(("state", "silent_s"), [("succeeded", 0.0), ("running", 3600.0)])
def test_a_run_that_the_store_alone_knows_can_be_deleted(
    tmp_path: Path, nodes: list[tuple[str, str]], state: State, silent_s: float
) -> None:
    runs = remembered(tmp_path, "ray", state, silent_s)
    jobs(Client(*nodes), MIZZEN_STORE=f"file://{tmp_path}").delete("a-run")
    assert runs.list() == []


@pytest.mark.parametrize("nodes", [[], [(ELSEWHERE, "ALIVE")]], ids=["away", "forgotten"])
def test_a_run_that_gives_signs_of_life_is_not_deleted(tmp_path: Path, nodes: list[tuple[str, str]]) -> None:
    runs = remembered(tmp_path, "ray", "running")
    with pytest.raises(ClusterError, match="still runs"):
        jobs(Client(*nodes), MIZZEN_STORE=f"file://{tmp_path}").delete("a-run")
    assert runs.show("a-run").state == "running"


@pytest.mark.parametrize("place", ["local", "kubernetes"])
def test_a_run_of_another_place_is_none_of_rays(tmp_path: Path, place: Place) -> None:
    runs = remembered(tmp_path, place, "succeeded")
    here = jobs(Client((ELSEWHERE, "ALIVE")), MIZZEN_STORE=f"file://{tmp_path}")
    for verb in (here.show, here.delete, lambda name: list(here.logs(name, follow=False))):
        with pytest.raises(NotFoundError, match="none that ran on Ray"):
            verb("a-run")
    assert runs.show("a-run").place == place


def test_an_address_needs_no_scheme() -> None:
    place = RayJobs("head:8265", settings.read({}))
    assert place._address == "http://head:8265"
    assert RayJobs(None, settings.read({}))._address == "http://127.0.0.1:8265"
    named = settings.read({"RAY_API_SERVER_ADDRESS": "http://named:8265"})
    assert RayJobs(None, named)._address == "http://named:8265"


def test_the_run_lies_below_the_span_of_who_submits_it(trace: Any, tmp_path: Path) -> None:
    trace()
    client = Client((ELSEWHERE, "ALIVE"))
    with tracing.span("submit") as span:
        jobs(client, MIZZEN_STORE="s3://bucket/models", MIZZEN_HOME=str(tmp_path)).submit(JOB)
    assert variables_of(client)["TRACEPARENT"] == span.traceparent

"""The quickstart as a newcomer runs it, then what one does next: serve, ask with known clients."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import mizzen as mizzen_client
from mizzen.client.errors import NotFoundError
from mizzen.local_ray import free_port

MIZZEN = Path(sys.executable).with_name("mizzen")
SHIPPED = ("chat", "forecasting", "recommendation")
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A home of its own, with the samples of the checkout's other tests."""
    home = tmp_path_factory.mktemp("quickstart")
    shared = REPOSITORY / ".mizzen" / "datasets"
    shared.mkdir(parents=True, exist_ok=True)
    (home / "datasets").symlink_to(shared)
    return {**os.environ, "MIZZEN_HOME": str(home), "PYTHONUNBUFFERED": "1"}


def mizzen(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MIZZEN, *arguments], env=environ, capture_output=True, text=True, timeout=1200)


def quickstart(environ: dict[str, str]) -> list[dict[str, Any]]:
    done = mizzen(environ, "quickstart", "--once", "--json", "--port", str(free_port()))
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


@pytest.fixture(scope="module")
def first(environ: dict[str, str]) -> dict[str, dict[str, Any]]:
    return {answer["model"]: answer for answer in quickstart(environ)}


@pytest.mark.timeout(1300)
def test_one_command_trains_gates_and_serves_a_model_of_each_workload(first: dict[str, Any]) -> None:
    assert set(SHIPPED) <= first.keys()
    for answer in first.values():
        assert answer["gate"]["passed"]
        assert answer["reply"]
        assert answer["latency_seconds"] < 60


def test_the_recommender_beats_popularity(first: dict[str, Any]) -> None:
    answer = first["recommendation"]
    assert answer["baselines"]["popularity"]["hr@10"] == pytest.approx(0.086, abs=0.0005)
    assert answer["baselines"]["popularity"]["ndcg@10"] == pytest.approx(0.044, abs=0.0005)
    assert answer["quality"]["ndcg@10"] > 1.5 * answer["baselines"]["popularity"]["ndcg@10"]


def test_the_forecaster_beats_the_naive_forecast(first: dict[str, Any]) -> None:
    answer = first["forecasting"]
    assert answer["baselines"]["naive"]["mase"] == pytest.approx(4.894322, abs=1e-6)
    assert answer["quality"]["mase"] < answer["baselines"]["naive"]["mase"]


def test_fine_tuning_lowers_the_held_out_loss(first: dict[str, Any], environ: dict[str, str]) -> None:
    shown = json.loads(mizzen(environ, "models", "show", "chat@production", "--json").stdout)
    lineage = shown["lineage"]
    assert lineage["metrics"]["loss"] < lineage["initial_metrics"]["loss"]
    assert shown["precision"] == "int8"
    assert shown["gate"]["quality"]["relative_loss"] <= 0.02


def test_a_second_run_reuses_every_version(first: dict[str, Any], environ: dict[str, str]) -> None:
    second = {answer["model"]: answer for answer in quickstart(environ)}
    assert {m: a["digest"] for m, a in second.items()} == {m: a["digest"] for m, a in first.items()}


def test_models_can_be_listed_verified_and_carried_to_another_store(
    first: dict[str, Any], environ: dict[str, str], tmp_path: Path
) -> None:
    rows = {row["name"]: row for row in json.loads(mizzen(environ, "models", "list", "--json").stdout)}
    assert rows["recommendation"]["aliases"] == {"production": 1}
    assert mizzen(environ, "models", "verify").returncode == 0
    archive = tmp_path / "rec.tar"
    assert mizzen(environ, "models", "export", "recommendation@production", str(archive)).returncode == 0
    elsewhere = {**environ, "MIZZEN_STORE": f"file://{tmp_path / 'store'}"}
    imported = mizzen(elsewhere, "models", "import", str(archive))
    assert imported.returncode == 0, imported.stderr
    assert first["recommendation"]["digest"] in imported.stdout


@pytest.fixture(scope="module")
def served(first: dict[str, Any], environ: dict[str, str]) -> Iterator[str]:
    """The ingress under `mizzen serve` without a file: all that is in production; two chats side by side."""
    port, home = free_port(), Path(environ["MIZZEN_HOME"])
    apps = [{"name": name, "model": f"{name}@production", "num_cpus": 0.5} for name in SHIPPED]
    apps.append({"name": "again", "model": "recommendation@1", "route_prefix": "/v1/again", "num_cpus": 0.5})
    file = home / "serve.yaml"
    file.write_text(json.dumps({"http": {"port": port}, "apps": apps}))
    log = home / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen([MIZZEN, "serve", str(file)], env=environ, stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{url}/chat/readyz", process, log)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=90)
    assert process.returncode == 0, log.read_text()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path, timeout_s: float = 300) -> None:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.25)
    raise AssertionError(f"{url} did not become ready:\n{log.read_text()}")


@pytest.fixture(scope="module")
def http(served: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served, trust_env=False, timeout=60) as client:
        yield client


@pytest.mark.parametrize("app", SHIPPED)
def test_each_application_says_that_it_lives_is_ready_and_what_it_offers(
    http: httpx.Client, app: str
) -> None:
    for path in ("/healthz", "/readyz", "/docs", "/metrics"):
        assert http.get(f"/{app}{path}").status_code == 200, path


def test_every_response_names_model_version_and_digest(http: httpx.Client, first: dict[str, Any]) -> None:
    for app in SHIPPED:
        for answer in (
            http.get(f"/{app}/healthz"),
            http.get(f"/{app}/nowhere"),
            http.post(f"/{app}/healthz"),
        ):
            assert answer.headers["mizzen-model"] == app
            assert answer.headers["mizzen-version"] == "1"
            assert answer.headers["mizzen-digest"] == first[app]["digest"]


def test_the_official_openai_client_works_unchanged(served: str) -> None:
    client = openai.OpenAI(base_url=f"{served}/chat/v1", api_key="none", max_retries=0)
    assert next(iter(client.models.list())).id == "chat"
    question: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
    whole = client.chat.completions.create(model="chat", messages=question, max_tokens=24, temperature=0)
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 0
    pieces = list(
        client.chat.completions.create(
            model="chat", messages=question, max_tokens=24, temperature=0, stream=True
        )
    )
    streamed = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    assert streamed == whole.choices[0].message.content
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-9", messages=question)
    client.close()


def test_the_python_client_asks_every_application(served: str) -> None:
    with mizzen_client.Client(served) as client:
        assert client.applications.at("/chat").ready().version == 1
        films = client.recommendation.recommend(user_id="196", num_results=3)
        assert len(films.item_ids) == 3
        assert set(client.recommendation.rank(films.item_ids, user_id="196").item_ids) == set(films.item_ids)
        assert len(client.recommendation.similar_items(films.item_ids[:1], num_results=2).items) == 2
        many = client.recommendation.recommend_many([{"user_id": "196"}, {"user_id": "nobody"}])
        assert [one.fallback for one in many.results] == [None, "popularity"]
        click: Any = {
            "type": "click",
            "user_id": "196",
            "item_id": films.item_ids[0],
            "recommendation_id": films.recommendation_id,
        }
        assert client.recommendation.feedback([click]).accepted == 1
        values = [100.0 + 3 * year for year in range(24)]
        sales: Any = {"name": "sales", "series": values, "frequency": "Y", "start_timestamp": "2000-01-01"}
        (forecast,) = client.forecasting.forecast([sales], horizon=3, quantiles=[0.1, 0.9]).series
        assert len(forecast.mean_forecast) == 3
        assert set(forecast.quantiles) == {"0.1", "0.9"}
        assert client.forecasting.backtest([sales], num_windows=2).overall.figures.mase is not None
        assert client.forecasting.anomalies([sales], last=2).series[0].first == 22
        answer = client.chat.complete(
            "What is the capital of France?", max_completion_tokens=12, temperature=0
        )
        with client.chat.stream(
            "What is the capital of France?", max_completion_tokens=12, temperature=0
        ) as chunks:
            assert "".join(chunk.text for chunk in chunks) == answer.text
        assert client.chat.complete_text("The capital of France is", max_tokens=4).text
        with pytest.raises(NotFoundError, match="mizzen knowledge build"):
            client.chat.embed("France")


def test_a_stream_ends_in_done(http: httpx.Client) -> None:
    body = {"model": "chat", "stream": True, "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]}
    text = http.post("/chat/v1/chat/completions", json=body).text
    lines = [line for line in text.splitlines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"


def test_recommendations_leave_out_what_a_user_has_seen(http: httpx.Client) -> None:
    answer = http.post("/recommendation/v1/recommendations", json={"user_id": "196", "num_results": 20})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert len(body["items"]) == 20
    assert body["fallback"] is None
    stranger = http.post("/recommendation/v1/recommendations", json={"user_id": "nobody"}).json()
    assert stranger["fallback"] is not None


def test_quantiles_of_a_forecast_never_cross(http: httpx.Client) -> None:
    body = {
        "model": "forecasting",
        "inputs": [
            {
                "type": "univariate_time_series",
                "name": "sales",
                "series": [3.0, 4.0, None, 7.0, 9.0, 8.0, 12.0, 13.0, 11.0, 16.0, 18.0, 21.0],
                "frequency": "1Y",
                "start_timestamp": "2001-01-01",
            }
        ],
        "options": {"horizon": 6, "quantiles": [0.1, 0.25, 0.5, 0.9]},
    }
    answer = http.post("/forecasting/v1/timeseries/forecast", json=body)
    assert answer.status_code == 200, answer.text
    content = answer.json()["outputs"][0]["content"][0]
    assert len(content["mean_forecast"]) == 6
    bands = [content["quantiles"][key] for key in sorted(content["quantiles"], key=float)]
    for lower, upper in pairwise(bands):
        assert all(low <= high for low, high in zip(lower, upper, strict=True))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/recommendation/v1/recommendations", {}),
        ("/recommendation/v1/recommendations", {"user_id": "196", "num_results": -1}),
        ("/recommendation/v1/recommendations", {"user_id": "196", "nonsense": 1}),
        ("/forecasting/v1/timeseries/forecast", {"inputs": []}),
        ("/chat/v1/chat/completions", {"model": "chat", "messages": []}),
        ("/chat/v1/chat/completions", {"model": "chat", "messages": [{"role": "x", "content": "y"}]}),
    ],
)
def test_bad_input_is_answered_with_400_and_a_reason(http: httpx.Client, path: str, body: Any) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]
    broken = http.post(path, content=b'{"a": ', headers={"content-type": "application/json"})
    assert broken.status_code == 400
    assert broken.json()["error"]["message"]


def test_two_versions_of_a_model_stand_side_by_side(http: httpx.Client) -> None:
    answer = http.post("/v1/again/v1/recommendations", json={"user_id": "196"})
    assert answer.status_code == 200
    assert answer.headers["mizzen-model"] == "recommendation"


def test_metrics_count_every_request(http: httpx.Client) -> None:
    def counted() -> float:
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in http.get("/forecasting/metrics").text.splitlines()
            if line.startswith("mizzen_requests_total{") and 'app="recommendation"' in line
        )

    before = counted()
    for _ in range(25):
        http.post("/recommendation/v1/recommendations", json={"user_id": "196"})
    assert counted() - before == 25

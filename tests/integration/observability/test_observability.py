"""A real Prometheus, Alertmanager and collector look at a real Mizzen: what they see is what happened.

Every query of every dashboard and every rule is asked. Grafana itself is not run.
"""

from __future__ import annotations

import json
import math
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from collectors import ReceivedSpan

    from conftest import Stage

REPOSITORY = Path(__file__).resolve().parents[3]
ALERT = "MizzenAvailabilityBudgetBurnsFast"
NUM_FAILURES = 15
"""An alert about fewer than ten would be about chance."""
WINDOW_S = 5.0
"""The shortest one of the alert, at the tests' scale of time: on a busy machine scrapes may miss it."""
REPLACED_WITHIN_S = 120.0
TOLD_WITHIN_S = 90.0

pytestmark = pytest.mark.timeout(900)


# --- what is scraped ------------------------------------------------------------------------------


def test_prometheus_finds_one_target_for_all_processes_of_the_machine(stage: Stage) -> None:
    [target] = stage.prometheus.ask("targets")["activeTargets"]
    assert target["health"] == "up", target["lastError"]
    assert target["labels"] == {"instance": socket.gethostname(), "job": "mizzen"}


@pytest.fixture(scope="module")
def killed(stage: Stage, until: Any) -> psutil.Process:
    """One of two replicas, killed between requests; another one has taken its place, and has been asked."""
    stage.settle()
    before = stage.mizzen.replicas("recommendation")
    assert len(before) == 2
    victim = before[0]
    victim.send_signal(signal.SIGKILL)

    def replaced() -> bool:
        alive = {process.pid for process in stage.mizzen.replicas("recommendation")} - {victim.pid}
        return len(alive) == 2 and stage.counted('mizzen_model_info{app="recommendation"}', "app") == {
            ("recommendation",): 2.0
        }

    until(replaced, "two replicas again", REPLACED_WITHIN_S)
    stage.traffic.recommend(30)
    return victim


def test_totals_are_what_was_sent_over_two_replicas_and_a_killed_one(
    stage: Stage, killed: psutil.Process
) -> None:
    assert not killed.is_running()
    stage.settle()
    assert stage.requests() == dict(stage.traffic.answered)


def test_tokens_are_those_that_answers_told_of(stage: Stage) -> None:
    stage.settle()
    told = stage.traffic.told
    assert told["completion_tokens"] > 0
    assert stage.counted("mizzen_chat_prompt_tokens_total", "app") == {("chat",): told["prompt_tokens"]}
    assert stage.counted("mizzen_chat_generated_tokens_total", "app") == {
        ("chat",): told["completion_tokens"]
    }


def test_feedback_is_counted_by_the_version_that_recommended(stage: Stage) -> None:
    stage.settle()
    labels = ("app", "version", "event", "joined")
    events = stage.counted("mizzen_recommendation_events_total", *labels)
    sent = {kind: stage.traffic.told[kind] for kind in ("impression", "click")}
    assert sent["click"] > 0
    assert events == {("recommendation", "1", kind, "true"): number for kind, number in sent.items()}


def test_what_was_refused_is_counted_by_its_reason(stage: Stage) -> None:
    stage.settle()
    refused = stage.traffic.answered["adder", "1", "429"]
    assert refused > 0
    counted = stage.counted("mizzen_requests_rejected_total", "app", "reason")
    assert counted == {("adder", "queue_full"): refused}


def test_the_failed_gate_is_counted(stage: Stage) -> None:
    stage.settle()
    refused = stage.counted('mizzen_store_publishes_total{gate="failed"}', "model")
    assert refused == {("chat-int4",): 1.0}


# --- traces ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def traced(stage: Stage) -> dict[str, tuple[str, str]]:
    """For two applications the trace and the span from which a request came."""
    ids = {app: (secrets.token_hex(16), secrets.token_hex(8)) for app in ("chat", "recommendation")}
    headers = {app: {"traceparent": f"00-{trace}-{span}-01"} for app, (trace, span) in ids.items()}
    stage.traffic.chat("When does the shop close?", headers=headers["chat"])
    body = {"user_id": "196", "num_results": 5}
    stage.traffic.send("recommendation", "/v1/recommendations", body, headers=headers["recommendation"])
    return ids


def below(spans: list[ReceivedSpan], span_id: str) -> set[str]:
    """The names of all spans below one."""
    children = [span for span in spans if span.parent_id == span_id]
    return {span.name for span in children}.union(*(below(spans, child.span_id) for child in children))


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        ("recommendation", {"POST /recommendation/v1/recommendations", "queue", "batch", "engine"}),
        ("chat", {"POST /chat/v1/chat/completions", "generate", "engine"}),
    ],
)
def test_a_request_is_one_trace_from_who_sent_it_to_the_engine(
    stage: Stage, traced: Mapping[str, tuple[str, str]], until: Any, app: str, expected: set[str]
) -> None:
    trace, sender = traced[app]

    def names() -> set[str]:
        return below(stage.spans.of(trace), sender)

    until(lambda: expected <= names(), f"all of {sorted(expected)} received", 20, names)


def test_a_run_is_one_trace_with_its_phases(stage: Stage) -> None:
    expected = {"prepare", "train", "worker", "step", "evaluation", "export", "gate", "publish"}
    runs = [span for span in list(stage.spans.received) if span.name == "run"]
    assert len(runs) == 2
    for run in runs:
        assert expected <= below(stage.spans.of(run.trace_id), run.span_id)


def test_traces_beside_a_histogram_are_those_of_requests_in_the_log(
    stage: Stage, traced: Mapping[str, tuple[str, str]], until: Any
) -> None:
    query = 'mizzen_request_duration_seconds_bucket{app="recommendation",route="/v1/recommendations"}'
    time_span = {"start": stage.began_s, "end": time.time() + 1}
    found = stage.prometheus.ask("query_exemplars", query=query, **time_span)
    exemplars = {one["labels"]["trace_id"] for series in found for one in series["exemplars"]}
    assert exemplars
    for trace in exemplars:
        assert {"queue", "batch"} <= {span.name for span in stage.spans.of(trace)}
        until(lambda trace=trace: log_line(stage, trace), f"{trace} logged", 10)
    line = until(lambda: log_line(stage, traced["recommendation"][0]), "logged", 10)
    assert (line["app"], line["model"], line["version"]) == ("recommendation", "recommendation", "1")
    assert (line["route"], line["status"]) == ("/v1/recommendations", 200)


def log_line(stage: Stage, trace: str) -> dict[str, Any]:
    """The line of the access log about a request to the recommender, empty if there is none yet."""
    lines = [line for line in stage.mizzen.log_lines("recommendation") if line.get("trace_id") == trace]
    assert len(lines) <= 1
    return lines[0] if lines else {}


# --- alerts ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alerted(stage: Stage, killed: psutil.Process, until: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was told when an application failed, and once it was well again."""
    failed_s = -math.inf

    def fired() -> Any:
        nonlocal failed_s
        if time.monotonic() > failed_s + WINDOW_S:
            for _ in range(NUM_FAILURES):
                assert stage.traffic.send("adder", "/v1/fail/now").status_code == 500
            failed_s = time.monotonic()
        return stage.alerts.with_status("firing", ALERT, app="adder")

    def said() -> list[Any]:
        return [(alert["status"], alert["labels"]) for alert in stage.alerts.told]

    first = until(fired, f"{ALERT} told", TOLD_WITHIN_S, said)

    def resolved() -> Any:
        for _ in range(10):
            assert stage.traffic.send("adder", "/v1/add", {"values": [1.0]}).status_code == 200
        return stage.alerts.with_status("resolved", ALERT, app="adder")

    return first, until(resolved, f"{ALERT} resolved", TOLD_WITHIN_S, said)


def test_a_gate_that_refused_a_version_is_told_of(stage: Stage, until: Any) -> None:
    until(lambda: stage.alerts.with_status("firing", "MizzenGateFailed"), "told", TOLD_WITHIN_S)


def test_an_application_that_fails_is_told_of_and_that_it_is_well_again(
    alerted: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    fired, resolved = alerted
    assert fired["labels"]["severity"] == "critical"
    assert "adder" in fired["annotations"]["summary"]
    page = fired["annotations"]["runbook_url"].partition("docs/")[2].partition("#")[0]
    assert (REPOSITORY / "docs" / page).is_file()
    assert resolved["labels"] == fired["labels"]


# --- dashboards and rules -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def queries(stage: Stage, alerted: Any, traced: Any) -> dict[str, list[dict[str, Any]]]:
    """Every query, now that everything has happened."""
    stage.settle()
    program = REPOSITORY / "helm" / "observability" / "queries.py"
    command = [sys.executable, program, "--window", "10s", "--range", "10m"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    found: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    return found


def verdict(stage: Stage, expression: str, no_data: str | None) -> str:
    """What is wrong with a query's answer over the whole time, if anything is."""
    try:
        has_data = bool(stage.prometheus.over(expression, stage.began_s, time.time()))
    except AssertionError as error:
        return f"Prometheus says {error}"
    if has_data and no_data:
        return f"has data, but is excused: {no_data}"
    return "" if has_data or no_data else "no data"


def test_every_query_of_every_panel_has_data_or_a_reason(stage: Stage, queries: Mapping[str, Any]) -> None:
    assert len(queries["panels"]) > 50
    verdicts = {
        (panel["dashboard"], panel["panel"], panel["expression"]): verdict(
            stage, panel["expression"], panel["no_data"]
        )
        for panel in queries["panels"]
    }
    wrong = [f"{' / '.join(key)}\n    {said}" for key, said in verdicts.items() if said]
    assert not wrong, f"{len(wrong)} of {len(verdicts)}:\n" + "\n".join(wrong)


def test_every_filter_of_every_dashboard_has_something_to_choose(stage: Stage, queries: Any) -> None:
    """But for namespaces and releases, which are of a cluster."""
    asked = 0
    for file in sorted((REPOSITORY / "helm" / "mizzen" / "dashboards").glob("*.json")):
        for variable in json.loads(file.read_text())["templating"]["list"]:
            if variable["type"] != "query":
                continue
            query = variable["query"]
            found = re.fullmatch(
                r"label_values\((.*), (\w+)\)", query if isinstance(query, str) else query["query"]
            )
            assert found, f"{file.name}: {query}"
            values = stage.prometheus.label_values(found[2], re.sub(r"\$\w+", ".*", found[1]))
            assert values or found[2] in ("namespace", "release"), f"{file.name}: {variable['name']}: {query}"
            asked += 1
    assert asked > 10


def test_every_rule_can_be_evaluated_and_what_it_asks_for_is_there(
    stage: Stage, queries: Mapping[str, Any]
) -> None:
    assert len(queries["rules"]) > 20
    wrong = []
    for rule in queries["rules"]:
        name = f"{rule['file']} / {rule['name']}"
        asked = [rule["expression"]] if rule["kind"] == "record" else rule["series"]
        wrong += [
            f"{name}: {one}\n    {said}" for one in asked if (said := verdict(stage, one, rule["no_data"]))
        ]
        stage.prometheus.ask("query", query=rule["expression"])
    assert not wrong, "\n".join(wrong)


def test_prometheus_itself_could_evaluate_every_rule(stage: Stage, queries: Mapping[str, Any]) -> None:
    groups = stage.prometheus.ask("rules")["groups"]
    evaluated = {rule["name"] for group in groups for rule in group["rules"]}
    assert evaluated == {rule["name"] for rule in queries["rules"]}
    troubles = [rule for group in groups for rule in group["rules"] if rule["health"] == "err"]
    assert not troubles, troubles

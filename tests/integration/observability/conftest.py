"""One Mizzen with everything that looks at it, for all tests of this folder.

`stage/` holds what is played and who looks; it is no package, so its folder is where its modules find each
other.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
MONITORING = REPOSITORY / "deploy" / "monitoring"
sys.path.append(str(Path(__file__).parent / "stage"))

from collectors import Alertmanager, Alerts, Prometheus, Spans, until  # noqa: E402 # found through the line above
from played import REFUSED_BY_GATE, START_TIMEOUT_S, Mizzen, Traffic, ended  # noqa: E402

from mizzen.local_ray import free_port  # noqa: E402

MODEL = '{route!~"/healthz|/readyz|/metrics"}'
"""Matches requests to models. Those that are refused at the door have met no route: theirs is `unknown`."""
TIME_SCALE = "0.0166667"
"""Of the rules: what takes an hour takes a minute here."""
KNOWLEDGE = "# Opening hours\n\nThe shop opens at nine in the morning and closes at six in the evening.\n"


@dataclass
class Stage:
    """All that there is."""

    mizzen: Mizzen
    traffic: Traffic
    prometheus: Prometheus
    alerts: Alerts
    spans: Spans
    began_s: float
    """Seconds since 1970."""

    def counted(self, expression: str, *labels: str) -> dict[tuple[str, ...], float]:
        """The sums of an expression by some labels, as Prometheus has them now, without zeros."""
        found = self.prometheus.now(f"sum by ({', '.join(labels)}) ({expression})")
        values = {tuple(dict(by)[label] for label in labels): value for by, value in found.items()}
        return {by: value for by, value in values.items() if value}

    def requests(self) -> dict[tuple[str, ...], float]:
        """What Prometheus knows of requests to models, in the form of `Traffic.answered`."""
        return self.counted(f"mizzen_requests_total{MODEL}", "app", "version", "code")

    def settle(self) -> None:
        """Wait until Prometheus knows of all requests that were sent."""
        sent = self.traffic.answered
        until(
            lambda: self.requests() == dict(sent),
            "all counted",
            20,
            lambda: difference(sent, self.requests()),
        )


def difference(sent: Mapping[Any, float], counted: Mapping[Any, float]) -> str:
    """Where two books differ."""
    keys = sorted({*sent, *counted})
    wrong = [key for key in keys if sent.get(key, 0) != counted.get(key, 0)]
    return "\n".join(f"{key}: sent {sent.get(key, 0):g}, counted {counted.get(key, 0):g}" for key in wrong)


def forecaster(hidden_size: int, alias: str) -> dict[str, Any]:
    """A job for a forecaster of so many units."""
    return {
        "name": "forecasting",
        "workload": "forecasting",
        "data": {"dataset": "m1-yearly", "context_length": 16},
        "model": {"architecture": "tide", "hidden_size": hidden_size},
        "training": {"steps": 0},
        "publish": {"alias": alias},
    }


def chatter(base: Path, precision: str, name: str, steps: int) -> dict[str, Any]:
    """A job for a language model of random weights, which it keeps: int4 loses much of what they do."""
    return {
        "name": name,
        "workload": "chat",
        "data": {"dataset": "chatterbot-corpus"},
        "model": {"base": str(base), "max_length": 96, "evaluation_conversations": 4},
        "training": {"steps": steps, "micro_batch_size": 4, "learning_rate": 1e-9},
        "publish": {"quantize": precision},
    }


def knowledge(folder: Path) -> dict[str, Any]:
    """A job for a knowledge base of one document."""
    folder.mkdir()
    (folder / "hours.md").write_text(KNOWLEDGE)
    return {
        "name": "kb",
        "workload": "knowledge",
        "data": {"paths": [str(folder)]},
        "training": {"steps": 0, "micro_batch_size": 1},
        "publish": {"quantize": "fp32", "weights": False},
    }


RECOMMENDER: dict[str, Any] = {
    "name": "recommendation",
    "workload": "recommendation",
    "data": {"dataset": "movielens-100k", "max_evaluation_users": 100},
    "model": {"hidden_size": 16, "num_blocks": 1, "max_length": 20},
    # Long enough for a scrape between two checkpoints.
    "training": {"steps": 60, "micro_batch_size": 128, "evaluate_every_steps": 20},
    "scaling": {"workers": 2, "cpus_per_worker": 0.5},
}


CANDIDATE = {"model": "forecasting@candidate"}
APPS: tuple[dict[str, Any], ...] = (
    {
        "name": "chat",
        "options": {"max_context": 512, "knowledge": {"model": "kb@production", "min_score": 0.2}},
    },
    {"name": "forecasting", "canary": {**CANDIDATE, "weight": 0.5}, "shadow": {**CANDIDATE, "share": 1.0}},
    {"name": "recommendation", "replicas": 2},
)


def spec(port: int, *apps: dict[str, Any]) -> dict[str, Any]:
    """A serve file with these applications, of little models."""
    small: dict[str, Any] = {"num_cpus": 0.25, "num_threads": 1}
    return {
        "http": {"port": port},
        "apps": [{**small, "model": f"{app['name']}@production", **app} for app in apps],
    }


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of random weights, the unit tests' own."""
    from importlib.util import module_from_spec, spec_from_file_location

    file = REPOSITORY / "tests" / "unit" / "workloads" / "chat" / "conftest.py"
    found = spec_from_file_location("chat_unit_conftest", file)
    assert found is not None and found.loader is not None
    module = module_from_spec(found)
    found.loader.exec_module(module)
    base: Path = module.make_tiny_base(tmp_path_factory.mktemp("base"))
    return base


@pytest.fixture(scope="module")
def stage(
    home: Any, prometheus_tools: Any, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """Everything, once models are trained and published, served and asked."""
    folder = tmp_path_factory.mktemp("stage")
    (home.folder / "datasets").symlink_to(REPOSITORY / ".mizzen" / "datasets")
    (home.folder / "run").mkdir()
    with ExitStack() as open_things:

        def opened(thing: Any) -> Any:
            open_things.callback(thing.close)
            return thing

        alerts, spans = opened(Alerts()), opened(Spans())
        watchers = folder / "watchers"
        watchers.mkdir()
        ports = free_port(), free_port(), free_port()
        shipped = MONITORING / "alertmanager.yml"
        opened(Alertmanager(prometheus_tools.alertmanager, shipped, watchers, ports[0], alerts.url))
        prometheus = opened(
            Prometheus(
                prometheus_tools.prometheus,
                MONITORING / "prometheus.yml",
                watchers,
                ports[1],
                ports[0],
                _rules(folder / "rules"),
                home.folder / "run",
            )
        )
        began_s = time.time()
        environ = {
            **home.environ,
            "OTEL_EXPORTER_OTLP_ENDPOINT": spans.url,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        mizzen = Mizzen(folder, environ)
        home.publish({"constant": 0.0})
        adder = {"max_ongoing_requests": 2, "max_queued_requests": 1, "batching": {"max_batch_size": 2}}
        serving = opened(mizzen.serve(spec(ports[2], {"name": "adder", **adder})))
        models = [
            knowledge(folder / "documents"),
            forecaster(8, "production"),
            forecaster(12, "candidate"),
            chatter(tiny_base, "fp32", "chat", 0),
        ]
        making = opened(mizzen.models("models", *models))
        traffic = opened(Traffic(f"http://127.0.0.1:{ports[2]}"))
        serving.wait_for(lambda: traffic.is_ready("adder"), "ready", START_TIMEOUT_S)
        _note("serving", began_s)
        training = opened(mizzen.train(RECOMMENDER))
        traffic.crowd("adder", 8)
        ended(making)
        _note("models", began_s)
        refused = opened(mizzen.train(chatter(tiny_base, "int4", "chat-int4", 30)))
        ended(training)
        _note("trained", began_s)
        mizzen.write(spec(ports[2], {"name": "adder", **adder}, *APPS))
        mizzen.reload()
        _note("reloaded", began_s)
        made = Stage(mizzen, traffic, prometheus, alerts, spans, began_s)
        for _ in range(2):  # a rate needs a scrape between them
            traffic.wave()
            made.settle()
        _note("asked", began_s)
        ended(refused, REFUSED_BY_GATE)
        _note("refused", began_s)
        yield made


def _note(what: str, began_s: float) -> None:
    print(f"{time.time() - began_s:6.1f} s: {what}")


def _rules(folder: Path) -> Path:
    """The rules that ship, with other times."""
    import subprocess

    make = REPOSITORY / "helm" / "observability" / "rules.py"
    command = [sys.executable, make, "--time-scale", TIME_SCALE, "--output", folder]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return folder


@pytest.fixture(scope="module", name="until")
def until_fixture() -> Any:
    """Waits for something to hold."""
    return until

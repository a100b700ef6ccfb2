"""What stands around a Mizzen in these tests: Prometheus, Alertmanager, and receivers of alerts and of spans.

Each listens on 127.0.0.1 alone, and ends with its `close`.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

Found = TypeVar("Found")
POLL_S = 0.05


def until(
    look: Callable[[], Found], what: str, timeout_s: float, detail: Callable[[], object] = str
) -> Found:
    """What `look` gives once it is true; fails with `what`, and with `detail`, if it never is."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline_s, f"within {timeout_s:g} s: not {what}\n{detail()}"
        time.sleep(POLL_S)


# --- programs -------------------------------------------------------------------------------------


class Program:
    """A process of which a file keeps what it says."""

    def __init__(
        self, name: str, command: Sequence[str | Path], folder: Path, environ: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=dict(environ), cwd=folder, stdout=log, stderr=log)

    def said(self) -> str:
        """All that it has said."""
        return self.log.read_text(errors="replace")

    def has_ended(self) -> bool:
        """Whether it runs no more."""
        return self.process.poll() is not None

    def wait_for(self, look: Callable[[], Found], what: str, timeout_s: float) -> Found:
        """As `until`; fails at once if the process ends."""

        def looked() -> Found | bool:
            assert not self.has_ended(), (
                f"{self.name} has ended with {self.process.returncode}\n{self.said()}"
            )
            return look()

        return until(looked, what, timeout_s, lambda: self.said()[-4000:])  # type: ignore[return-value]

    def close(self, number: int = 15) -> int:
        """End it, by its process id."""
        if not self.has_ended():
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout=90)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Prometheus(Program):
    """A real one with the configuration that ships, but for times, addresses and the rules' folder."""

    def __init__(
        self,
        program: Path,
        shipped: Path,
        folder: Path,
        port: int,
        alertmanager: int,
        rules: Path,
        mizzen_run: Path,
    ) -> None:
        config = yaml.safe_load(shipped.read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s", "scrape_timeout": "1s"}
        config["rule_files"] = [str(rules / "*.yml")]
        config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alertmanager}"]
        config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] == "mizzen"]
        [discovery] = config["scrape_configs"][0]["file_sd_configs"]
        discovery["refresh_interval"] = "1s"
        (folder / "mizzen-run").symlink_to(mizzen_run)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = [
            program,
            "--config.file=prometheus.yml",
            f"--web.listen-address=127.0.0.1:{port}",
            f"--storage.tsdb.path={folder / 'series'}",
            "--enable-feature=exemplar-storage",
            "--log.level=warn",
        ]
        super().__init__("prometheus", command, folder, {"PATH": os.defpath})
        self.api = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30)
        self.wait_for(lambda: _is_well(self.api, "/-/ready"), "ready", 30)

    def ask(self, path: str, **parameters: Any) -> Any:
        """`data` of an answer. Fails with Prometheus's own words."""
        answer = (
            self.api.post(f"/api/v1/{path}", data=parameters)
            if parameters
            else self.api.get(f"/api/v1/{path}")
        )
        content = answer.json()
        assert content["status"] == "success", content["error"]
        return content["data"]

    def now(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """An instant query's values by their labels."""
        return {
            tuple(sorted(one["metric"].items())): float(one["value"][1])
            for one in self.ask("query", query=expression)["result"]
        }

    def by(self, label: str, expression: str) -> dict[str, float]:
        """An instant query's values by one label."""
        return {dict(labels).get(label, ""): value for labels, value in self.now(expression).items()}

    def label_values(self, label: str, selector: str) -> list[str]:
        """The values that a label has in the series of a selector."""
        answer = self.api.get(f"/api/v1/label/{label}/values", params={"match[]": selector}).json()
        assert answer["status"] == "success", answer["error"]
        found: list[str] = answer["data"]
        return found

    def over(self, expression: str, start_s: float, end_s: float, step_s: float = 1.0) -> list[Any]:
        """A range query's series, with those of their values that are no NaN."""
        data = self.ask("query_range", query=expression, start=start_s, end=end_s, step=step_s)
        return [
            (one["metric"], values)
            for one in data["result"]
            if (values := [float(value) for _, value in one["values"] if value != "NaN"])
        ]

    def close(self, number: int = 15) -> int:
        self.api.close()
        return super().close(number)


class Alertmanager(Program):
    """A real one with the configuration that ships, but that it tells our receiver, and soon."""

    def __init__(self, program: Path, shipped: Path, folder: Path, port: int, receiver: str) -> None:
        config = yaml.safe_load(shipped.read_text())
        hook = {"url": receiver, "send_resolved": True}
        config["receivers"] = [{"name": "nobody", "webhook_configs": [hook]}]
        for route in (config["route"], *config["route"]["routes"]):
            route |= {"group_wait": "0s", "group_interval": "1s"}
        (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
        command = [
            program,
            f"--config.file={folder / 'alertmanager.yml'}",
            f"--web.listen-address=127.0.0.1:{port}",
            f"--storage.path={folder / 'alerts'}",
            "--cluster.listen-address=",
            "--log.level=warn",
        ]
        super().__init__("alertmanager", command, folder, {"PATH": os.defpath})
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as api:
            self.wait_for(lambda: _is_well(api, "/-/ready"), "ready", 30)


def _is_well(api: httpx.Client, path: str) -> bool:
    try:
        return api.get(path).status_code == 200
    except httpx.TransportError:
        return False  # not listening yet


# --- receivers ------------------------------------------------------------------------------------


class _Receiver:
    """An HTTP server that hands the bodies of what is posted to `take`."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                take(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Alerts(_Receiver):
    """Keeps what Alertmanager tells a webhook."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        super().__init__(lambda body: self.told.extend(json.loads(body)["alerts"]))

    def with_status(self, status: str, name: str, **labels: str) -> dict[str, Any] | None:
        """The first alert of this name that fired, or was resolved."""
        for alert in list(self.told):
            wanted = {"alertname": name, **labels}
            if alert["status"] == status and wanted.items() <= alert["labels"].items():
                return alert
        return None


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as a collector gets it."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    resource: Mapping[str, Any] = field(default_factory=dict)


class Spans(_Receiver):
    """A collector of OpenTelemetry's protocol over HTTP that keeps spans."""

    def __init__(self) -> None:
        self.received: list[ReceivedSpan] = []
        super().__init__(self._take)

    def of(self, trace_id: str) -> list[ReceivedSpan]:
        """All spans of a trace so far."""
        return [span for span in list(self.received) if span.trace_id == trace_id]

    def _take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            facts = _plain(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.received += [
                    ReceivedSpan(
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        _plain(span.attributes),
                        facts,
                    )
                    for span in scope.spans
                ]


def _plain(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}

"""The Mizzen that is observed: its commands, and requests that are booked as they are sent."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from collectors import Program, until

HERE = Path(__file__).parent
MIZZEN = Path(sys.executable).with_name("mizzen")
START_TIMEOUT_S = 240.0
"""Generous: the machine may be busy with other tests."""
REFUSED_BY_GATE = 4
"""Exit code of a command whose version the gate refused."""


@dataclass
class Mizzen:
    """Commands in one `MIZZEN_HOME`."""

    folder: Path
    """For logs and job files."""
    environ: Mapping[str, str]
    serving: Program | None = None

    @property
    def run_dir(self) -> Path:
        """Where the list of targets is."""
        return Path(self.environ["MIZZEN_HOME"]) / "run"

    def start(self, name: str, *arguments: str | Path) -> Program:
        """A command of ours that goes on beside the test."""
        return Program(name, [MIZZEN, *arguments], self.folder, self.environ)

    def train(self, job: Mapping[str, Any]) -> Program:
        """`mizzen train`."""
        file = self.folder / f"{job['name']}.json"
        file.write_text(json.dumps(job))
        return self.start(f"train-{job['name']}", "train", file)

    def models(self, name: str, *jobs: Mapping[str, Any]) -> Program:
        """Publishes models that nobody has trained."""
        files = [self.folder / f"{name}-{number}.json" for number in range(len(jobs))]
        for file, job in zip(files, jobs, strict=True):
            file.write_text(json.dumps(job))
        command = [sys.executable, HERE / "small_models.py", *files]
        return Program(name, command, self.folder, self.environ)

    def serve(self, spec: Mapping[str, Any]) -> Program:
        """`mizzen serve`; what it serves is said by `serves`."""
        self.write(spec)
        self.serving = self.start("serve", "serve", self.folder / "serve.yaml")
        return self.serving

    def write(self, spec: Mapping[str, Any]) -> None:
        """The serve file anew."""
        (self.folder / "serve.yaml").write_text(json.dumps(spec))

    def reload(self) -> None:
        """`mizzen reload`, until it is done."""
        assert self.serving is not None
        before = self.serving.said().count("reloaded")
        command = [MIZZEN, "reload"]
        subprocess.run(command, env=dict(self.environ), check=True, capture_output=True, timeout=60)
        said = self.serving.wait_for(lambda: self.serving_says(before), "reloaded", START_TIMEOUT_S)
        assert not said.startswith("not reloaded"), said

    def serving_says(self, before: int) -> str:
        """The line about the reload after the first `before` ones, if it is there."""
        assert self.serving is not None
        lines = [line for line in self.serving.said().splitlines() if "reloaded" in line]
        return lines[before] if len(lines) > before else ""

    def replicas(self, app: str) -> list[psutil.Process]:
        """The processes that answer for an application."""
        home = self.environ["MIZZEN_HOME"]
        found = []
        for process in psutil.process_iter():
            try:
                is_replica = f"ServeReplica:{app}:" in " ".join(process.cmdline())
                if is_replica and process.environ().get("MIZZEN_HOME") == home:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def log_lines(self, app: str) -> list[dict[str, Any]]:
        """What the replicas of an application have logged."""
        files = Path(self.environ["MIZZEN_HOME"], "logs").glob(f"replica-{app}-*.jsonl")
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def ended(program: Program, code: int = 0) -> None:
    """Wait for a command to end with this exit code."""
    until(program.has_ended, f"{program.name} at its end", START_TIMEOUT_S, program.said)
    assert program.process.returncode == code, program.said()


@dataclass
class Traffic:
    """Sends requests to applications, and keeps the books."""

    url: str
    answered: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Requests that a replica answered, by application, version and status."""
    told: Counter[str] = field(default_factory=Counter)
    """What answers said of tokens, and the like."""

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=60)

    def send(
        self, app: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """POST a body, or GET without one."""
        method = "GET" if body is None else "POST"
        answer = self.client.request(method, f"/{app}{path}", json=body, headers=dict(headers or {}))
        self.book(app, answer)
        return answer

    def book(self, app: str, answer: httpx.Response) -> None:
        """Count an answer, if it came from a replica and not from the ingress alone."""
        version = answer.headers.get("mizzen-version")
        if version is not None:
            self.answered[app, version, str(answer.status_code)] += 1

    def is_ready(self, app: str) -> bool:
        """Whether the application says so; not booked."""
        try:
            return self.client.get(f"/{app}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def recommend(self, times: int) -> None:
        """Known users, a session, a stranger."""
        bodies = ({"user_id": "196"}, {"history": ["50", "181"]}, {"user_id": "nobody"})
        for number in range(times):
            self.send("recommendation", "/v1/recommendations", {**bodies[number % 3], "num_results": 5})

    def feed_back(self) -> None:
        """What was recommended was seen, and the first of it clicked."""
        body = {"user_id": "196", "num_results": 3}
        answer = self.send("recommendation", "/v1/recommendations", body).json()
        kinds = [*("impression" for _ in answer["items"]), "click"]
        items = [*answer["items"], answer["items"][0]]
        events = [
            {
                "event_id": secrets.token_hex(8),
                "type": kind,
                "user_id": "196",
                "item_id": item["item_id"],
                "recommendation_id": answer["recommendation_id"],
            }
            for kind, item in zip(kinds, items, strict=True)
        ]
        assert self.send("recommendation", "/v1/feedback", {"events": events}).json()["accepted"] == len(
            kinds
        )
        self.told.update(kinds)

    def forecast(self, times: int, num_series: int = 1) -> None:
        """Yearly series, and then a search for anomalies."""
        years = {"type": "univariate_time_series", "frequency": "1Y", "start_timestamp": "2000-01-01"}
        inputs = [
            {
                **years,
                "name": f"sales {number}",
                "series": [100.0 + 3 * (year + number) for year in range(24)],
            }
            for number in range(num_series)
        ]
        body = {"model": "forecasting", "inputs": inputs}
        for _ in range(times):
            self.send("forecasting", "/v1/timeseries/forecast", {**body, "options": {"horizon": 3}})
        self.send("forecasting", "/v1/timeseries/anomalies", {**body, "options": {"last": 4}})

    def chat(self, question: str, *, stream: bool = False, headers: Mapping[str, str] | None = None) -> None:
        """A question, as a whole or as a stream."""
        body: dict[str, Any] = {"model": "chat", "max_tokens": 8, "temperature": 0}
        body["messages"] = [{"role": "user", "content": question}]
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        answer = self.send("chat", "/v1/chat/completions", body, headers=headers)
        if stream:
            lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
            usage = json.loads(lines[-2])["usage"]
        else:
            usage = answer.json()["usage"]
        for name in ("prompt_tokens", "completion_tokens"):
            self.told[name] += usage[name]

    def wave(self) -> None:
        """Something of everything."""
        self.forecast(6)
        self.forecast(1, num_series=150)  # drift is told of after so many values
        self.chat("When does the shop open?")
        self.chat("What is the capital of France?", stream=True)
        self.recommend(30)
        self.feed_back()

    def crowd(self, app: str, num_requests: int) -> None:
        """As many requests at once, of which some are refused."""
        import asyncio

        async def ask() -> list[httpx.Response]:
            async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=60) as client:
                body = {"values": [1.0], "delay_s": 0.5}
                return await asyncio.gather(
                    *(client.post(f"/{app}/v1/add", json=body) for _ in range(num_requests))
                )

        for answer in asyncio.run(ask()):
            self.book(app, answer)

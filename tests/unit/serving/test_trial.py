"""Trying an endpoint, against a server of the standard library that plays its part."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mizzen.errors import NotFoundError, ServingError
from mizzen.serving import trial

HEALTH = {"status": "ready", "model": "films", "version": 3}
EXAMPLES = [{"path": "/v1/x", "body": {"n": 1}}, {"path": "/v1/other", "body": {}}]
Answers = dict[str, list[tuple[int, object]]]


class Played:
    """Answers each path with what it is told, in turn, the last for ever; keeps what was asked."""

    def __init__(self) -> None:
        self.answers: Answers = {
            "/films/readyz": [(200, HEALTH)],
            "/films/examples": [(200, EXAMPLES)],
            "/films/v1/x": [(200, {"total": 1})],
        }
        self.asked: list[tuple[str, str, str | None, bytes]] = []

    def next(self, path: str) -> tuple[int, object]:
        turns = self.answers.get(path, [(404, {"error": "no"})])
        return turns.pop(0) if len(turns) > 1 else turns[0]


@pytest.fixture
def played() -> Played:
    return Played()


@pytest.fixture
def url(played: Played, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(trial, "PAUSE_S", 0.01)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            played.asked.append((self.command, self.path, self.headers.get("authorization"), body))
            status, content = played.next(self.path)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("location", "/films/v1/other")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/films"
        server.shutdown()
        thread.join()


def test_the_first_example_is_sent_with_the_key(url: str, played: Played) -> None:
    done = trial.attempt(url + "/", key="secret", timeout_s=5)
    assert (done.url, done.model, done.version, done.path) == (url, "films", 3, "/v1/x")
    assert done.latency_s is not None
    assert 0 < done.latency_s < 5
    assert played.asked[-1] == ("POST", "/films/v1/x", "Bearer secret", b'{"n": 1}')


def test_it_waits_until_the_endpoint_is_there_and_ready(url: str, played: Played) -> None:
    played.answers["/films/readyz"] = [(404, {}), (503, {}), (200, HEALTH)]
    played.answers["/films/v1/x"] = [(429, {}), (200, [1])]
    assert trial.attempt(url, timeout_s=5).version == 3


def test_an_endpoint_without_examples_is_ready_and_nothing_is_sent(url: str, played: Played) -> None:
    played.answers["/films/examples"] = [(200, [])]
    done = trial.attempt(url, timeout_s=5)
    assert (done.path, done.latency_s) == (None, None)
    assert [path for _, path, _, _ in played.asked] == ["/films/readyz", "/films/examples"]


@pytest.mark.parametrize(
    ("path", "status", "content", "said"),
    [
        ("/films/readyz", 503, {"error": "the model is not loaded"}, "did not answer in time.*not loaded"),
        ("/films/examples", 401, {}, "wants an API key.*--api-key-file"),
        ("/films/v1/x", 500, {"error": "broke"}, "does not answer as it should.*500.*broke"),
        ("/films/v1/x", 200, b"<html>", "does not answer with JSON.*html"),
        ("/films/v1/x", 200, {}, "with nothing in it"),
        ("/films/v1/x", 302, {}, "does not answer as it should.*302"),
        ("/films/v1/x", 429, {}, "did not answer in time.*429"),
    ],
)
def test_any_other_answer_is_a_failure_that_says_what_came(
    url: str, played: Played, path: str, status: int, content: object, said: str
) -> None:
    played.answers[path] = [(status, content)]
    with pytest.raises(ServingError, match=said):
        trial.attempt(url, timeout_s=0.5)


def test_a_key_that_is_refused_is_not_shown(url: str, played: Played) -> None:
    played.answers["/films/examples"] = [(401, {})]
    with pytest.raises(ServingError, match="refuses the API key") as refused:
        trial.attempt(url, key="secret", timeout_s=5)
    assert "secret" not in str(refused.value)


def test_a_key_does_not_follow_a_redirect(url: str, played: Played) -> None:
    played.answers["/films/v1/x"] = [(302, {})]
    with pytest.raises(ServingError):
        trial.attempt(url, key="secret", timeout_s=5)
    assert "/films/v1/other" not in [path for _, path, _, _ in played.asked]


def test_nobody_listening_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "PAUSE_S", 0.01)
    with pytest.raises(ServingError, match=r":9/x/readyz did not answer in time.*refused"):
        trial.attempt("http://127.0.0.1:9/x", timeout_s=0.05)


def test_a_key_is_read_from_a_file_or_from_the_first_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / "b").write_text("second")
    (tmp_path / "a").write_text("first\n")
    assert trial.read_key(tmp_path) == "first"
    assert trial.read_key(tmp_path / "b") == "second"
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "no"):
        with pytest.raises(NotFoundError, match="API key"):
            trial.read_key(place)


@pytest.mark.parametrize(
    ("path", "content"),
    [("/films/readyz", ["ok"]), ("/films/readyz", {"ok": True}), ("/films/examples", ["a"])],
)
def test_a_server_of_something_else_is_told_from_an_application(
    url: str, played: Played, path: str, content: object
) -> None:
    played.answers[path] = [(200, content)]
    with pytest.raises(ServingError, match="no application of Mizzen"):
        trial.attempt(url, timeout_s=5)

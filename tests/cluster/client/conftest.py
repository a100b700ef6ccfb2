"""An HTTP server that plays the Kubernetes API, on a real socket: lists, objects, watches, logs, refusals.

The shapes are those that the API documents: `Status` bodies, list metadata, watch events one JSON a line,
logs as chunks with timestamps. `api` is the server, `kube` the real client, connected through a kubeconfig
file.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from mizzen.cluster.kube import Kind, Kube, connect

TOKEN = "sesame"
NAMESPACE = "team"
COLLECTION = re.compile(
    r"^/(api/[^/]+|apis/[^/]+/[^/]+)(?:/namespaces/([^/]+))?/([a-z]+)(?:/([^/]+))?(?:/(log))?$"
)
Object = dict[str, Any]

CUT = "cut"
"""In a script: the connection breaks here, in the middle of a line."""
HANG = "hang"
"""In a script: nothing more comes, and the connection stays open."""


@dataclass
class Seen:
    """A request that came in."""

    method: str
    path: str
    query: dict[str, str]
    body: Any = None


@dataclass
class Api:
    """What the server knows and how it answers; tests write into it."""

    objects: dict[str, Object] = field(default_factory=dict)
    """By path."""
    refusals: dict[tuple[str, str], tuple[int, Any]] = field(default_factory=dict)
    """(method, plural) -> HTTP status and body."""
    watches: dict[str, list[list[Any]]] = field(default_factory=dict)
    """plural -> one script a watch: events, `CUT`, or a callable that changes the world."""
    logs: dict[str, list[str]] = field(default_factory=dict)
    """pod -> its log, each line with a timestamp."""
    log_scripts: dict[str, list[list[Any]]] = field(default_factory=dict)
    """pod -> one script a request: numbers of lines of the log to send, `CUT`, `HANG`, or an answer."""
    documents: dict[str, Object] = field(default_factory=dict)
    """path -> what discovery answers."""
    page_size: int = 0
    allowed: Callable[[Object], bool] = lambda attributes: True
    seen: list[Seen] = field(default_factory=list)
    url: str = ""
    closing: threading.Event = field(default_factory=threading.Event)

    def put(self, kind: Kind, thing: Object) -> Object:
        """An object that is there; the server's own fields are filled in."""
        about = thing.setdefault("metadata", {})
        about.setdefault("namespace", NAMESPACE) if kind.namespaced else None
        about.setdefault("uid", str(uuid.uuid4()))
        about.setdefault("resourceVersion", str(len(self.objects) + 100))
        about.setdefault("creationTimestamp", "2026-11-22T08:00:00Z")
        self.objects[kind.path(about.get("namespace", NAMESPACE), about["name"])] = thing
        return thing

    def asked(self, method: str, ending: str) -> list[Seen]:
        """Requests with this method whose path ends so."""
        return [seen for seen in self.seen if seen.method == method and seen.path.endswith(ending)]


def status(code: int, reason: str, message: str) -> Object:
    """A `Status` object as the API answers it."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    api: Api

    def log_message(self, *arguments: object) -> None:
        """Silent."""

    def answer(self, code: int, body: Any) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def refuse(self, code: int, reason: str, message: str) -> None:
        self.answer(code, status(code, reason, message))

    def handle_one(self, method: str) -> None:
        split = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.api.seen.append(Seen(method, split.path, query, body))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "Unauthorized", "Unauthorized")
            return
        if split.path in self.api.documents:
            self.answer(200, self.api.documents[split.path])
            return
        found = COLLECTION.match(split.path)
        if not found:
            self.answer(404, b"404 page not found\n")
            return
        _, _, plural, name, log = found.groups()
        refusal = self.api.refusals.get((f"{method} log" if log else method, plural))
        if refusal is not None:
            self.answer(*refusal)
        elif log:
            self.log(name, query)
        elif method == "POST":
            self.create(split.path, plural, body, query)
        elif name is None:
            self.watch(split.path, plural, query) if query.get("watch") else self.list(split.path, query)
        else:
            self.one(method, split.path, plural, name, body)

    def one(self, method: str, path: str, plural: str, name: str, body: Any) -> None:
        thing = self.api.objects.get(path)
        if thing is None:
            self.refuse(404, "NotFound", f'{plural} "{name}" not found')
            return
        if method == "DELETE":
            del self.api.objects[path]
        if method == "PATCH":
            assert self.headers["Content-Type"] == "application/merge-patch+json"
            merge(thing, body)
        self.answer(200, thing)

    def create(self, path: str, plural: str, body: Object, query: dict[str, str]) -> None:
        if plural == "selfsubjectaccessreviews":
            allowed = self.api.allowed(body["spec"]["resourceAttributes"])
            self.answer(201, {**body, "status": {"allowed": allowed}})
            return
        assert query.get("fieldValidation") == "Strict"
        name = body["metadata"]["name"]
        if f"{path}/{name}" in self.api.objects:
            self.refuse(409, "AlreadyExists", f'{plural}.ray.io "{name}" already exists')
            return
        about = {"namespace": NAMESPACE, "uid": str(uuid.uuid4()), "resourceVersion": "7"}
        thing = {
            **body,
            "metadata": {**about, "creationTimestamp": "2026-11-22T08:00:00Z", **body["metadata"]},
        }
        self.api.objects[f"{path}/{name}"] = thing
        self.answer(201, thing)

    def chosen(self, path: str, query: dict[str, str]) -> list[Object]:
        everywhere = "/namespaces/" not in path
        plural = path.rsplit("/", 1)[1]
        return [
            thing
            for where, thing in sorted(self.api.objects.items())
            if (where.rsplit("/", 1)[0] == path or (everywhere and where.rsplit("/", 2)[1] == plural))
            and matches(thing, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        ]

    def list(self, path: str, query: dict[str, str]) -> None:
        items, start = self.chosen(path, query), int(query.get("continue", "0"))
        size = self.api.page_size or len(items) + 1
        about = {"resourceVersion": "1000"}
        if start + size < len(items):
            about["continue"] = str(start + size)
        self.answer(200, {"kind": "List", "metadata": about, "items": items[start : start + size]})

    # --- streams ----------------------------------------------------------------------------------

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, content: bytes) -> None:
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
        self.wfile.flush()

    def finish_chunks(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def cut(self) -> None:
        self.wfile.write(b"ff\r\nhalf a li")
        self.wfile.flush()
        self.close_connection = True

    def watch(self, path: str, plural: str, query: dict[str, str]) -> None:
        scripts = self.api.watches.get(plural, [])
        script = scripts.pop(0) if scripts else []
        if script and isinstance(script[0], tuple):  # refused before it begins
            self.answer(*script[0])
            return
        self.begin()
        for step in script:
            if step == CUT:
                self.cut()
                return
            made = step() if callable(step) else step
            self.chunk(json.dumps(made).encode() + b"\n")
        self.finish_chunks()

    def log(self, pod: str, query: dict[str, str]) -> None:
        lines = self.api.logs.get(pod, [])
        if since := query.get("sinceTime"):
            lines = [line for line in lines if line[:19] >= since[:19]]
        if "tailLines" in query:
            lines = lines[-int(query["tailLines"]) :]
        if query.get("timestamps") != "true":
            lines = [line.partition(" ")[2] for line in lines]
        scripts = self.api.log_scripts.get(pod, [])
        script = scripts.pop(0) if scripts else [len(lines)]
        if script and isinstance(script[0], tuple):
            self.answer(*script[0])
            return
        self.begin()
        for step in script:
            if step == CUT:
                self.cut()
                return
            if step == HANG:
                self.api.closing.wait(30)
                self.close_connection = True
                return
            if callable(step):
                step()
                continue
            for line in lines[:step]:
                self.chunk(f"{line}\n".encode())
        self.finish_chunks()

    def do_GET(self) -> None:
        self.handle_one("GET")

    def do_POST(self) -> None:
        self.handle_one("POST")

    def do_PATCH(self) -> None:
        self.handle_one("PATCH")

    def do_DELETE(self) -> None:
        self.handle_one("DELETE")


def merge(target: Object, change: Object) -> None:
    """RFC 7386."""
    for name, value in change.items():
        if value is None:
            target.pop(name, None)
        elif isinstance(value, dict) and isinstance(target.get(name), dict):
            merge(target[name], value)
        else:
            target[name] = value


def matches(thing: Object, labels: str, fields: str) -> bool:
    """Whether selectors choose `thing`."""
    own = thing["metadata"].get("labels") or {}
    for term in filter(None, labels.split(",")):
        name, equal, value = term.partition("=")
        if name not in own or (equal and own[name] != value):
            return False
    for term in filter(None, fields.split(",")):
        path, _, value = term.partition("=")
        at: Any = thing
        for part in path.split("."):
            at = (at or {}).get(part)
        if at != value:
            return False
    return True


@pytest.fixture
def api() -> Iterator[Api]:
    """The server."""
    made = Api()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"api": made}))
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def kubeconfig(api: Api, tmp_path: Path) -> Path:
    """A kubeconfig file with two contexts; the current one names the namespace."""
    path = tmp_path / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "main",
        "clusters": [{"name": "c", "cluster": {"server": api.url}}],
        "users": [
            {"name": "u", "user": {"token": TOKEN}},
            {"name": "stranger", "user": {"token": "wrong"}},
        ],
        "contexts": [
            {"name": "main", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}},
            {"name": "other", "context": {"cluster": "c", "user": "stranger"}},
        ],
    }
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def kube(kubeconfig: Path) -> Kube:
    """The real client."""
    return connect(kubeconfig=kubeconfig)


@pytest.fixture
def no_pause() -> Callable[[float], None]:
    """Instead of `time.sleep`."""
    return lambda seconds: None

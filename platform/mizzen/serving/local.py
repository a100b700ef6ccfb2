"""Serves on this machine: starts Ray and Ray Serve closed to others, reloads, and stops all of it.

It listens on loopback, and beyond it only where API keys are asked for, with the ingress alone. A cluster is
not its business: there, KubeRay starts what this starts here.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mizzen import local_ray, metrics, totals
from mizzen.errors import MizzenError, ServeFileError, ServingError
from mizzen.series import Series
from mizzen.serving import auth, haproxy, running
from mizzen.serving.pins import DEPLOYMENT, IMPORT_PATH, Resolved, resolve
from mizzen.serving.spec import App, ServeSpec
from mizzen.settings import Settings
from mizzen.store.store import ModelStore

START_TIMEOUT_S = 600.0
NO_TLS = (
    "warning: others reach this server, and there is no TLS: whoever is on the way reads API keys and data."
    " Put a proxy with TLS in front (Caddy, nginx) and serve on 127.0.0.1 behind it"
)
_POLL_S = 0.1
_OBJECT_STORE_BYTES = 100 * 2**20
"""Requests do not pass through Ray's object store, so the smallest will do."""
_LAST_LINE = re.compile(r"^(?:[\w.]+\.)?(?P<kind>\w*(?:Error|Exception|Exit|Interrupt))(?:: (?P<text>.*))?$")


@dataclass
class Serving:
    """What is being served by this process."""

    spec: ServeSpec
    settings: Settings
    versions: Mapping[str, Resolved]
    """What each application's references mean, by the application's name."""

    @property
    def url(self) -> str:
        """The address of the ingress, as this machine reaches it."""
        return self.spec.http.url

    def url_of(self, app: App) -> str:
        """The address of an application."""
        return self.url + app.route_prefix.rstrip("/")

    def reload(self, spec: ServeSpec) -> None:
        """Resolve aliases anew and serve `spec`; a new version takes over without a dropped request.

        Raises `MizzenError`, and then everything goes on as before; `ServingError` if replicas could not
        load a version, and then those go on with the version before.
        """
        if spec.http != self.spec.http:
            raise ServeFileError(
                "http cannot change while serving",
                field="http",
                remedy="Stop `mizzen serve` and start it again.",
            )
        versions = _resolve_all(spec, self.settings)
        failures = _reload_failures(self.settings)
        try:
            _deploy(spec, versions, self.settings)
            _wait_until_running(spec)
            self._wait_for_versions(spec, versions, failures)
        except ServingError:
            # Else a replica that starts later would try what has just failed.
            _deploy(self.spec, self.versions, self.settings)
            raise
        self.spec, self.versions = spec, versions
        self.note()

    def note(self) -> None:
        """Write down what is served, for `running`."""
        apps = [running.describe(app, self.versions[app.name]) for app in self.spec.apps]
        running.write(self.settings, self.spec.http.port, self.url, apps)

    def shutdown(self) -> None:
        """Stop answering, and stop every process that was started."""
        running.remove(self.settings, self.spec.http.port)
        local_ray.shutdown()

    def wait_for_canaries(self, say: Callable[[str], None]) -> None:
        """Return when canaries answer too; `say` hears of what cannot be loaded beside the first versions."""
        try:
            self._wait_for_versions(self.spec, self.versions, {})
        except ServingError as cause:
            say(f"warning: {cause}")

    def _wait_for_versions(
        self, spec: ServeSpec, versions: Mapping[str, Resolved], before: Mapping[str, float]
    ) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            now = _reload_failures(self.settings)
            failed = [key for key, count in now.items() if count > before.get(key, 0)]
            if failed:
                raise ServingError(
                    f"{failed[0]} could not be loaded; the version before goes on answering",
                    remedy=f"The replica's log in {local_ray.instance().folder}/ray says why.",
                )
            served = _versions_served(self.settings)
            if all(
                served.get(app.name, set()) == versions[app.name].answering
                or (_may_be_idle(app) and app.name not in served)
                for app in spec.apps
            ):
                return
            if time.monotonic() > deadline_s:
                raise ServingError(f"replicas did not take over their versions in {START_TIMEOUT_S:.0f} s")
            time.sleep(_POLL_S)


def start(spec: ServeSpec, settings: Settings, say: Callable[[str], None] = lambda _: None) -> Serving:
    """Serve `spec` from this machine; returns when every application answers. `say` hears of progress.

    Raises `MizzenError` with the reason, and then nothing is left running.
    """
    _check_port(spec)
    api_keys = auth.check(settings, settings.store_url, only_here=spec.http.is_loopback)
    if not spec.http.is_loopback:
        say(NO_TLS)
    versions = _resolve_all(spec, settings)
    totals.clean(settings.metrics_dir)
    say("starting Ray")
    open_to = None if spec.http.is_loopback else spec.http.host
    variables = haproxy.environment(local_ray.instance().folder / "http", local_ray.free_port(), open_to)
    variables["MIZZEN_API_KEYS"] = api_keys
    # Ray's workers, and with them replicas and HAProxy, would give way to everything else on the machine.
    variables["RAY_worker_niceness"] = "0"
    num_cpus = max(os.cpu_count() or 1, _cpus_wanted(spec))
    local_ray.init(settings, num_cpus=num_cpus, object_store_bytes=_OBJECT_STORE_BYTES, variables=variables)
    serving = Serving(spec, settings, versions)
    try:
        from ray import serve
        from ray.serve.config import HTTPOptions

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(http_options=HTTPOptions(**_http_options(spec)))
        say("loading " + _names(versions))
        _deploy(spec, versions, settings)
        _wait_until_running(spec)
        serving.wait_for_canaries(say)
        serving.note()
    except BaseException as cause:
        serving.shutdown()
        if isinstance(cause, ServingError) and cause.remedy is None:
            cause.remedy = f"The logs are in {local_ray.keep_logs(settings)}."
        raise
    return serving


def run_until_interrupted(
    serving: Serving, spec: Callable[[], ServeSpec], say: Callable[[str], None] = lambda _: None
) -> None:
    """Block until SIGINT or SIGTERM, then shut down; SIGHUP serves what `spec()` now returns.

    Must be called in the main thread. A reload that fails is told to `say`; the old versions stay.
    """
    received: list[int] = []
    wake = threading.Event()

    def note(number: int, _: object) -> None:
        received.append(number)
        wake.set()

    before = {
        number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        while True:
            wake.wait()
            wake.clear()
            while received:
                if received.pop(0) != signal.SIGHUP:
                    return
                try:
                    serving.reload(spec())
                    say("reloaded: " + _names(serving.versions))
                except MizzenError as error:
                    say(f"not reloaded: {error}")
    finally:
        serving.shutdown()
        for number, handler in before.items():
            signal.signal(number, handler)


def _names(versions: Mapping[str, Resolved]) -> str:
    return ", ".join(f"{one.name}@{one.version}" for resolved in versions.values() for one in resolved)


def _resolve_all(spec: ServeSpec, settings: Settings) -> dict[str, Resolved]:
    """Resolve and fetch here, where errors reach the user at once, before any replica does the same."""
    store = ModelStore(settings.store_url)
    versions = {app.name: resolve(app, store) for app in spec.apps}
    for resolved in versions.values():
        for manifest in resolved:
            store.fetch(manifest, settings.cache_dir)
    return versions


def _deploy(spec: ServeSpec, versions: Mapping[str, Resolved], settings: Settings) -> None:
    # The declarative way, as `serve deploy` and KubeRay do it: only so can Serve tell a new version of a
    # model, which is one field of `user_config`, from new code, for which it would restart the replicas.
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    _get_global_client().deploy_apps(
        ServeDeploySchema.model_validate(schema(spec, versions, settings.store_url))
    )


def schema(spec: ServeSpec, versions: Mapping[str, Resolved], store_url: str) -> dict[str, Any]:
    """What Ray Serve is to run, in the form of its own configuration files."""
    return {
        "http_options": _http_options(spec),
        "applications": [
            {
                "name": app.name,
                "route_prefix": app.route_prefix,
                "import_path": IMPORT_PATH,
                # Canary and shadow are in `user_config` alone, so that changing them restarts no replica.
                "args": {
                    "app": app.model_dump(mode="json", exclude={"canary", "shadow"}),
                    "store_url": store_url,
                },
                "deployments": [
                    {"name": DEPLOYMENT, "user_config": versions[app.name].pinned(app).model_dump()}
                ],
            }
            for app in spec.apps
        ],
    }


def _http_options(spec: ServeSpec) -> dict[str, Any]:
    # Replicas listen where Serve's own address is, so that is never beyond loopback: HAProxy alone is opened.
    host = spec.http.host if spec.http.is_loopback else local_ray.LOOPBACK
    return {"host": host, "port": spec.http.port}


def _wait_until_running(spec: ServeSpec) -> None:
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        applications = serve.status().applications
        states = {app.name: applications.get(app.name) for app in spec.apps}
        for name, state in states.items():
            if state is not None and state.status in (
                ApplicationStatus.DEPLOY_FAILED,
                ApplicationStatus.UNHEALTHY,
            ):
                details = [state.message, *(deployment.message for deployment in state.deployments.values())]
                raise ServingError(f"{name} cannot be served: {reason(details)}", field=name)
        if all(state is not None and state.status == ApplicationStatus.RUNNING for state in states.values()):
            return
        if time.monotonic() > deadline_s:
            late = ", ".join(
                name for name, state in states.items() if state is None or state.status != "RUNNING"
            )
            raise ServingError(f"{late} did not start in {START_TIMEOUT_S:.0f} s")
        time.sleep(_POLL_S)


def reason(details: list[str]) -> str:
    """The exception behind Serve's messages, in one sentence, without its traceback."""
    lines = [line.strip() for detail in details for line in detail.splitlines() if line.strip()]
    found = [match for line in lines if (match := _LAST_LINE.match(line)) and match["text"]]
    specific = [match for match in found if match["kind"] not in ("RuntimeError", "RayTaskError")]
    for match in reversed(specific or found):
        return match["text"] if match["kind"].startswith("Serv") else f"{match['kind']}: {match['text']}"
    return lines[-1] if lines else "Ray Serve does not say why"


def _own_samples(series: Series, settings: Settings) -> list[tuple[dict[str, str], float]]:
    # Another `mizzen serve` with the same home keeps its series in the same folder.
    pids = {process.pid for process in local_ray.processes()}
    return totals.samples(series, settings.metrics_dir, pids)


def _reload_failures(settings: Settings) -> dict[str, float]:
    return {
        f"{labels['model']}@{labels['version']} in {labels['app']}": count
        for labels, count in _own_samples(metrics.RELOAD_FAILURES, settings)
    }


def _versions_served(settings: Settings) -> dict[str, set[tuple[str, int]]]:
    served: dict[str, set[tuple[str, int]]] = {}
    for labels, replicas in _own_samples(metrics.MODEL_INFO, settings):
        if replicas:
            served.setdefault(labels["app"], set()).add((labels["model"], int(labels["version"])))
    return served


def _may_be_idle(app: App) -> bool:
    """Whether the app may have no replica at all: its next one loads what is pinned then."""
    return not isinstance(app.replicas, int) and app.replicas.min == 0


def _check_port(spec: ServeSpec) -> None:
    host, port = spec.http.host, spec.http.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as cause:
            raise ServingError(
                f"port {port} on {host} cannot be used: {cause.strerror}",
                field="http.port",
                remedy="Stop what listens there, or set another http.port in the serve file.",
            ) from None


def _cpus_wanted(spec: ServeSpec) -> int:
    """CPUs that the replicas reserve together: a small machine runs them all the same, only slower."""
    return sum(
        -(
            -int(app.num_cpus * 100)
            * (app.replicas if isinstance(app.replicas, int) else app.replicas.max)
            // 100
        )
        for app in spec.apps
    )

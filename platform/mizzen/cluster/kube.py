"""The Kubernetes API, as far as Mizzen needs it: objects as plain dictionaries, errors in people's words.

It goes through the official client, so kubeconfig files, in-cluster accounts, login plug-ins and proxies work
as they do for everybody else. It knows no kind of object but by its address; what an object means is said in
the modules above. Following streams is in `streams`, the errors in `refusals`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlencode

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from mizzen.cluster.refusals import Request, refused, unreachable
from mizzen.errors import ClusterError, NotFoundError

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
PAGE_SIZE = 500
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

Object = dict[str, Any]
Verb = Literal["get", "list", "watch", "create", "patch", "delete"]


@dataclass(frozen=True)
class Kind:
    """A kind of object, by its address in the API."""

    plural: str
    group: str = ""
    """Empty for the core group."""
    version: str = "v1"
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As it stands in a manifest."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str, name: str | None = None) -> str:
        """The address of one object, or of all in `namespace`."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{quote(namespace, safe='')}" if self.namespaced else ""
        tail = f"/{quote(name, safe='')}" if name is not None else ""
        return f"{root}{scope}/{self.plural}{tail}"


PODS = Kind("pods")
EVENTS = Kind("events")
CONFIG_MAPS = Kind("configmaps")
NODES = Kind("nodes", namespaced=False)
DEPLOYMENTS = Kind("deployments", "apps")
RAY_JOBS = Kind("rayjobs", "ray.io")
RAY_CLUSTERS = Kind("rayclusters", "ray.io")
RAY_SERVICES = Kind("rayservices", "ray.io")
KUEUE = "kueue.x-k8s.io"
ACCESS_REVIEWS = Kind("selfsubjectaccessreviews", "authorization.k8s.io", namespaced=False)


class Kube:
    """One namespace of one cluster."""

    def __init__(self, api: Any, namespace: str, read_timeout_s: float = READ_TIMEOUT_S) -> None:
        """`api` is the official client's `ApiClient`; `connect` makes one."""
        self._api = api
        self.namespace = namespace
        self.read_timeout_s = read_timeout_s

    @property
    def host(self) -> str:
        """The API server's address."""
        return str(self._api.configuration.host)

    def get(self, kind: Kind, name: str) -> Object:
        """One object. Raises `NotFoundError` or `ClusterError`."""
        return self._json("get", kind, name)

    def find(
        self, kind: Kind, labels: str = "", fields: str = "", namespace: str | None = None
    ) -> list[Object]:
        """All objects that the selectors choose; `namespace` `*` is all of them."""
        return self.snapshot(kind, labels, fields, namespace)[0]

    def may_find(self, kind: Kind, labels: str = "") -> list[Object]:
        """The same for what only helps to explain: nothing, if it may not be read or cannot be now."""
        try:
            return self.find(kind, labels)
        except (ClusterError, NotFoundError):
            return []

    def snapshot(
        self, kind: Kind, labels: str = "", fields: str = "", namespace: str | None = None
    ) -> tuple[list[Object], str | None]:
        """The same, page by page, with the version of the list, from which a watch can begin."""
        found: list[Object] = []
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(PAGE_SIZE)}
        while True:
            page = self._json("list", kind, query=query, namespace=namespace)
            found += page.get("items") or []
            about = page.get("metadata") or {}
            if not about.get("continue"):
                return found, about.get("resourceVersion")
            query["continue"] = about["continue"]

    def create(self, kind: Kind, body: Mapping[str, Any]) -> Object:
        """Create `body`; fields that the API does not know are an error, not a silent loss."""
        name = body.get("metadata", {}).get("name")
        return self._json("create", kind, name, query={"fieldValidation": "Strict"}, body=body)

    def patch(self, kind: Kind, name: str, change: Mapping[str, Any]) -> Object:
        """Merge `change` into an object (RFC 7386)."""
        return self._json("patch", kind, name, body=change)

    def delete(self, kind: Kind, name: str) -> None:
        """Delete an object; what it owns goes after it."""
        self._json("delete", kind, name, body={"propagationPolicy": "Background"})

    def config_maps(self, labels: str) -> list[Object]:
        """ConfigMaps by label."""
        return self.find(CONFIG_MAPS, labels)

    def discover(self, path: str) -> Object | None:
        """What the API says about itself at `path`: `/version`, `/apis/ray.io`; None if there is no such."""
        request = Request("get", path.strip("/"), "", self.namespace, None, self.host)
        try:
            return dict(self._read(request, "GET", path))
        except NotFoundError:
            return None
        except ClusterError as cause:
            if "does not know" in cause.what:
                return None
            raise

    @contextmanager
    def stream(
        self, verb: Verb, kind: Kind, path: str, query: Mapping[str, str], read_timeout_s: float
    ) -> Iterator[Any]:
        """An open answer, to be read as it comes; errors while reading are urllib3's.

        Raises `ClusterError` or `NotFoundError` if it does not begin.
        """
        request = Request(verb, kind.plural, kind.group, self.namespace, None, self.host)
        response = self._call(request, "GET", path, query, read_timeout_s=read_timeout_s)
        raw = response.response
        try:
            yield raw
        finally:
            raw.close()  # not back to the pool: it may never end

    def _json(
        self,
        verb: Verb,
        kind: Kind,
        name: str | None = None,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        namespace: str | None = None,
    ) -> Object:
        request = Request(verb, kind.plural, kind.group, namespace or self.namespace, name, self.host)
        path = kind.path(self.namespace, None if verb == "create" else name)
        if namespace == "*":
            path = path.replace(f"/namespaces/{quote(self.namespace, safe='')}", "", 1)
        method = {"create": "POST", "patch": "PATCH", "delete": "DELETE"}.get(verb, "GET")
        return dict(self._read(request, method, path, query, body))

    def _read(
        self,
        request: Request,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Any:
        response = self._call(request, method, path, query or {}, body)
        try:
            return json.loads(response.read())
        except urllib3.exceptions.HTTPError as cause:
            raise unreachable(request, cause) from None
        except ValueError:
            raise ClusterError(
                f"{self.host} does not answer as a Kubernetes API",
                saw=f"no JSON at {path}",
                remedy="Check the server in your kubeconfig and any proxy in between.",
            ) from None

    def _call(
        self,
        request: Request,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        read_timeout_s: float | None = None,
    ) -> Any:
        timeouts = (CONNECT_TIMEOUT_S, read_timeout_s or self.read_timeout_s)
        content_type = "application/merge-patch+json" if method == "PATCH" else "application/json"
        given = urlencode({k: v for k, v in query.items() if v})
        headers = {"Accept": "application/json", "Content-Type": content_type}
        try:
            serialized = self._api.param_serialize(
                method, path, header_params=headers, body=body, auth_settings=["BearerToken"]
            )
            method, url, headers, body, posted = serialized
            response = self._api.call_api(
                method, f"{url}?{given}" if given else url, headers, body, posted, _request_timeout=timeouts
            )
        except ApiException as cause:
            raise refused(request, cause.status, cause.body or cause.reason) from None
        except (urllib3.exceptions.HTTPError, OSError) as cause:
            raise unreachable(request, cause) from None
        if not 200 <= response.status <= 299:
            response.read()
            raise refused(request, response.status, response.data)
        return response


def connect(namespace: str | None = None, context: str | None = None, kubeconfig: Path | None = None) -> Kube:
    """The cluster that `kubectl` would talk to: a kubeconfig file, else the pod's own account.

    `namespace` defaults to the context's. Raises `ClusterError` if there is no usable configuration.
    """
    configuration = client.Configuration()
    file = str(kubeconfig) if kubeconfig else None
    try:
        config.load_kube_config(
            config_file=file, context=context, client_configuration=configuration, persist_config=False
        )
        of_context = _namespace_of(file, context)
    except (ConfigException, OSError) as no_file:
        if context is not None or kubeconfig is not None:
            raise _unusable(no_file) from None
        try:
            config.load_incluster_config(client_configuration=configuration)
            of_context = NAMESPACE_FILE.read_text(encoding="utf-8").strip()
        except (ConfigException, OSError):
            raise _unusable(no_file) from None
    configuration.retries = False
    return Kube(client.ApiClient(configuration), namespace or of_context or "default")


def _namespace_of(file: str | None, context: str | None) -> str | None:
    contexts, current = config.list_kube_config_contexts(config_file=file)
    chosen = next((c for c in contexts if c["name"] == context), current) if context else current
    found = (chosen or {}).get("context", {}).get("namespace")
    return str(found) if found else None


def _unusable(cause: Exception) -> ClusterError:
    return ClusterError(
        f"no usable Kubernetes configuration: {cause}",
        remedy="Point KUBECONFIG to your kubeconfig file, choose a context in it with --context, or run"
        " inside the cluster with a service account.",
    )

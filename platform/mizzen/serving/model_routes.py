"""Which requests are to the model itself, and which of them change nothing.

To the model are those to the workload's routes and to `/infer` of the Open Inference Protocol: they count for
service levels, and probes, scrapes and documentation do not. It answers none of them.
"""

from __future__ import annotations

from starlette.routing import compile_path
from starlette.types import Scope

from mizzen.serving.inference_protocol import INFER, INFER_VERSION
from mizzen.workloads.contract import Endpoint

_INFER = (f"/v2{INFER}", f"/v2{INFER_VERSION}")


class ModelRoutes:
    """The routes of one version, by their templates."""

    def __init__(self, endpoint: Endpoint, *, has_tensors: bool) -> None:
        """`has_tensors`: the Open Inference Protocol offers the version."""
        infer = frozenset(_INFER if has_tensors else ())
        self.methods = {template: frozenset({"POST"}) for template in infer}
        for route in endpoint.router.routes:
            template = getattr(route, "path", None)
            if isinstance(template, str):
                methods = getattr(route, "methods", None) or ()
                self.methods[template] = self.methods.get(template, frozenset()) | frozenset(methods)
        self._read_only = {**endpoint.read_only, **dict.fromkeys(infer, frozenset[str]())}
        self._patterns = [compile_path(template)[0] for template in self.methods]

    def is_own(self, scope: Scope, path: str) -> bool:
        """Whether a request to `path`, below the route prefix, is to the model, also if it met no route.

        What is refused, for want of room or of a key, has met none. A browser's question whether it may ask
        is no request to the model.
        """
        if scope["method"] == "OPTIONS":
            return False
        route = scope.get("route")
        if route is not None:
            return getattr(route, "path", None) in self.methods
        return any(pattern.match(path) for pattern in self._patterns)

    def left_out(self, scope: Scope) -> frozenset[str] | None:
        """For a request that was answered and changes nothing, so that another version may have it too: which
        fields of the answers are not to be compared. None for one that may change something.
        """
        return self._read_only.get(getattr(scope.get("route"), "path", ""))

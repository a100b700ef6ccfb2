"""One line of JSON for each request that was answered, in the replica's log file (`mizzen.logs`).

    {"time":"...","level":"info","logger":"mizzen.access","message":"POST /v1/forecast 200","app":"sales",
     "model":"sales","version":"3","request_id":"...","trace_id":"...","method":"POST","route":"/v1/forecast",
     "status":200,"duration_ms":3.141,"bytes":512,"key":"shop"}

The route is its template. What a client sends is not in it: no path, no query, no body, no address; but for
the request's id. Probes and scrapes have no line. The lines of half a second are written together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache

from mizzen import logs
from mizzen.logs import LogFile


class AccessLog:
    """Writes the lines of one version that answers."""

    def __init__(self, file: LogFile, served: Mapping[str, str]) -> None:
        """`served` are the application, the model and its version, by these names."""
        self._file = file
        self._served = json.dumps(dict(served), separators=(",", ":"))[1:-1]

    def answered(
        self,
        method: str,
        route: str,
        status: int,
        *,
        duration_s: float,
        num_bytes: int,
        request_id: str,
        trace_id: str,
        key: str | None,
    ) -> None:
        """A request was answered; `request_id` and `trace_id` have been checked, `key` is a key's name."""
        # Piece by piece: `json.dumps` of the whole, or `logging`, would take several times as long.
        trace = f',"trace_id":"{trace_id}"' if trace_id else ""
        by = f',"key":{_quoted(key)}' if key else ""
        self._file.write_soon(
            f'{{"time":"{logs.now()}","level":"info","logger":"mizzen.access",'
            f'"message":{_message(method, route, status)},{self._served},"request_id":"{request_id}"{trace},'
            f'"method":"{method}","route":{_quoted(route)},"status":{status},'
            f'"duration_ms":{duration_s * 1000:.3f},"bytes":{num_bytes}{by}}}'
        )


# Bounded: routes are templates, and keys are those that an operator has made.
@cache
def _quoted(text: str) -> str:
    return json.dumps(text)


@cache
def _message(method: str, route: str, status: int) -> str:
    return json.dumps(f"{method} {route} {status}")

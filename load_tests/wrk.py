"""Saturates a server with wrk, where it is installed: as a client it costs a tenth of what Locust does.

On few cores client and server share them, so a client that is cheap leaves the figure to the server. All
servers of a run get the same client. Requests go round in a circle through the inputs, on connections that
stay open. It has no open arrival rate: `measure.Locust` has.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psutil

from measure import Figures, Moment
from servers import Server

NUM_BODIES = 400
"""Requests that wrk's script holds in memory."""
_SCRIPT = """
local bodies = {{}}
for line in io.lines("{inputs}") do
  if #bodies < {num_bodies} then bodies[#bodies + 1] = line end
end
local turn = 0
request = function()
  turn = turn % #bodies + 1
  return wrk.format("POST", "{path}", {{["content-type"] = "application/json"}}, bodies[turn])
end
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\\nRESULT {{"requests": %d, "duration_us": %d, "p50_us": %d, "p95_us": %d, "p99_us": %d,' ..
    ' "status": %d, "connect": %d, "read": %d, "write": %d, "timeout": %d}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(95),
    latency:percentile(99), errors.status, errors.connect, errors.read, errors.write, errors.timeout))
end
"""


def installed() -> bool:
    """Whether there is a wrk on this machine (`apt install wrk`)."""
    return shutil.which("wrk") is not None


def saturate(
    server: Server,
    path: str,
    inputs: Path,
    scratch: Path,
    *,
    clients: int,
    warm_up_s: float,
    measure_s: float,
    units_a_request: int,
) -> Figures:
    """One measurement with `clients` connections, each of which asks again as soon as it is answered."""
    url_path = server.url.partition("://")[2].partition("/")[2]
    script = scratch / f"{inputs.stem}.lua"
    script.write_text(
        _SCRIPT.format(inputs=inputs, num_bodies=NUM_BODIES, path=f"/{url_path}{path}".replace("//", "/"))
    )
    _wrk(server, script, clients, warm_up_s)
    before = Moment.now(server, _children_s())
    seen = _wrk(server, script, clients, measure_s)
    after = Moment.now(server, _children_s())
    errors = {name: seen[name] for name in ("status", "connect", "read", "write", "timeout") if seen[name]}
    good = seen["requests"] - seen["status"]
    if good <= 0:
        raise RuntimeError(f"{server.name} answered none of {seen['requests']} requests: {errors}")
    window_s = seen["duration_us"] / 1e6
    return Figures(
        units_per_s=good * units_a_request / window_s,
        requests_per_s=good / window_s,
        p50_ms=seen["p50_us"] / 1e3,
        p95_ms=seen["p95_us"] / 1e3,
        p99_ms=seen["p99_us"] / 1e3,
        first_p50_ms=None,
        first_p99_ms=None,
        num_requests=seen["requests"],
        num_errors=sum(errors.values()),
        errors=errors,
        **after.costs(before, good),
    )


def _wrk(server: Server, script: Path, clients: int, seconds: float) -> Any:
    """What wrk has seen."""
    address = "/".join(server.url.split("/")[:3])
    # wrk counts in whole seconds.
    command = ["wrk", "-t", "1", "-c", str(clients), "-d", f"{max(1, round(seconds))}s", "--timeout", "30s"]
    done = subprocess.run([*command, "-s", str(script), address], capture_output=True, text=True, check=False)
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode != 0 or not results:
        raise RuntimeError(f"wrk has failed ({done.returncode}): {(done.stderr or done.stdout)[-1000:]}")
    return json.loads(results[0].removeprefix("RESULT "))


def _children_s() -> float:
    """CPU time of processes that this one has started and that have ended: of wrk, while servers run on."""
    times = psutil.Process().cpu_times()
    return float(times.children_user + times.children_system)

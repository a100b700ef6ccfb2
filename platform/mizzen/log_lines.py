"""What a log line says: which lines somebody asks for, and how one is shown to people.

It reads no files: `log_files` does here, and `cluster.pod_logs` on Kubernetes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

LEVELS = ("debug", "info", "warning", "error", "critical")

_WHOSE = ("app", "run", "train_job", "model")
"""Fields that may name what somebody asks for."""
_IDS = ("request_id", "trace_id")
_SHOWN = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) != "\t"}
"""Control characters, as Python writes them."""


@dataclass(frozen=True)
class Wanted:
    """Which lines somebody asks for; empty fields choose all."""

    about: str = ""
    """An application, a run, a job or a model."""
    level: str = ""
    """At least so grave."""
    request: str = ""
    """The id of a request, or of a trace."""
    since: str = ""
    """From this time on, as `logs.now` writes it."""

    def takes(self, line: str) -> bool:
        """Whether it is one of them. What is no line of ours is none."""
        if self.request and self.request not in line:
            return False
        said = parsed(line)
        if said is None or str(said.get("time", "")) < self.since:
            return False
        if self.about and not any(said.get(field) == self.about for field in _WHOSE):
            return False
        if self.request and not any(said.get(field) == self.request for field in _IDS):
            return False
        return not self.level or _rank(str(said.get("level"))) >= _rank(self.level)


def parsed(line: str) -> dict[str, Any] | None:
    """The fields of a line; None if it is no JSON object."""
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None


def shown(line: str) -> str:
    """A line for people: time, level, whose it is, what it says, and ids to ask further with.

    Control characters are shown and not obeyed: what is told of may come from a client, and must neither
    look like another line nor speak to the terminal. Further lines of a message stand below, as those of an
    exception do.
    """
    said = parsed(line) or {"message": line}
    whose = next((str(said[field]) for field in _WHOSE if said.get(field)), str(said.get("logger", "")))
    rest = _rest(said)
    first, *more = str(said.get("message", "")).splitlines() or [""]
    head = f"{said.get('time', '')}  {said.get('level', ''):<7}  {whose:<16}  {first}"
    parts = [f"{head}  ({rest})" if rest else head, *more, *str(said.get("exception", "")).splitlines()]
    return "\n    ".join(part.translate(_SHOWN) for part in parts)


def _rest(said: dict[str, Any]) -> str:
    if said.get("logger") == "mizzen.access":
        known = {"took": f"{said.get('duration_ms')} ms", "bytes": said.get("bytes"), "key": said.get("key")}
    else:
        known = {}
    known |= {field.removesuffix("_id"): said.get(field) for field in _IDS}
    return ", ".join(f"{name} {value}" for name, value in known.items() if value is not None)


def _rank(level: str) -> int:
    return LEVELS.index(level) if level in LEVELS else 1

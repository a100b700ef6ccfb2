"""The line of a long log that says why a program failed.

Pure functions over text: Mizzen's own errors first, then the first Python traceback with the place in the
code, then what DeepSpeed, NCCL and the kernel say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

TRACEBACK = "Traceback (most recent call last):"
OURS = re.compile(r"^error: (.+)$")
FRAME = re.compile(r'^\s*File "([^"]+)", line (\d+), in (.+)$')
RAISED = re.compile(
    r"^\s*((?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|Interrupt|Exit|Failure))(: .*)?$"
)
CHAINED = ("direct cause of the following exception", "handling of the above exception")
LOUD = re.compile(
    r"CUDA out of memory|NCCL error|out of memory|No space left on device|Killed|Segmentation fault|"
    r"ModuleNotFoundError|ImportError|AssertionError|RuntimeError|ValueError"
)
PREFIX = re.compile(r"^(?:\x1b\[[0-9;]*m)*\((?:[\w.:<> -]+) pid=\d+(?:, ip=[\d.]+)?\)(?:\x1b\[[0-9;]*m)* ?")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def relevant(text: str) -> str:
    """The sentence in `text` that says why it failed, or an empty text."""
    lines = [COLOUR.sub("", PREFIX.sub("", line)).rstrip() for line in text.splitlines()]
    return _ours(lines) or _traceback(lines) or _loud(lines)


def _ours(lines: Sequence[str]) -> str:
    found = [match.group(1) for line in lines if (match := OURS.match(line))]
    return found[-1] if found else ""


def _traceback(lines: Sequence[str]) -> str:
    """The last chain of exceptions ended the program; its first one is the root, raised at its last frame."""
    starts = [number for number, line in enumerate(lines) if TRACEBACK in line]
    while len(starts) > 1 and _chained(lines[starts[-2] : starts[-1]]):
        starts.pop()
    frame = ""
    for line in lines[starts[-1] + 1 :] if starts else lines:
        at = FRAME.match(line)
        if at:
            file = "/".join(at.group(1).split("/")[-2:])
            frame = f"{file}:{at.group(2)} in {at.group(3)}"
        elif (found := RAISED.match(line)) and (starts or frame):  # Ray leaves the headline out
            if found.group(1).startswith("mizzen.errors."):  # says all that there is to say
                return (found.group(2) or "").removeprefix(": ")
            return line.strip() + (f" (at {frame})" if frame else "")
    return ""


def _chained(between: Sequence[str]) -> bool:
    return any(phrase in line for line in between for phrase in CHAINED)


def _loud(lines: Sequence[str]) -> str:
    return next((line.strip() for line in lines if LOUD.search(line)), "")

"""Log lines of Mizzen's processes: JSON, one a line, in files below `MIZZEN_HOME/logs`, some a process.

    {"time":"2026-11-22T16:00:00.123Z","level":"warning","logger":"mizzen.serving.watch","message":"...",
     "app":"films","model":"films","version":"3","request_id":"...","trace_id":"..."}

Python's own `logging` is what code calls; `start` gives a process its file. Fields are there where they are
known: those of the process (`start`), of the request or whatever else is being worked on (`about`), `run`,
`exception` with its traceback. Secrets in this process's environment are masked. A disk that is full loses
lines and fails nothing. It reads no files (`log_files` does), and what people see on a terminal is not its
business.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mizzen import settings, tracing
from mizzen.log_files import NUM_OLD, clean

MAX_BYTES = 10 * 2**20
"""Of a file; then it becomes `.1`, and that `.2`, up to `NUM_OLD`."""
WRITE_EVERY_S = 0.5
"""How long a line that is not urgent waits for others."""
_NOTHING: Mapping[str, str] = MappingProxyType({})
_about: ContextVar[Mapping[str, str]] = ContextVar("mizzen-log-fields", default=_NOTHING)


def now() -> str:
    """This moment as RFC 3339 writes it, UTC, with milliseconds."""
    second, millisecond = divmod(time.time_ns() // 1_000_000, 1000)
    return f"{_second(second)}.{millisecond:03}Z"


@lru_cache(maxsize=4)
def _second(since_1970: int) -> str:
    # Every request asks for it: one in a thousand makes it anew.
    return datetime.fromtimestamp(since_1970, UTC).isoformat()[:19]


def moment(when: datetime) -> str:
    """A time in UTC, as lines have it."""
    return when.isoformat(timespec="milliseconds")[:-6] + "Z"


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """Lines of the block, and of what it calls in other threads by `asyncio.to_thread`, have these fields."""
    token = begin({**_about.get(), **fields})
    try:
        yield
    finally:
        end(token)


def begin(fields: Mapping[str, str]) -> Token[Mapping[str, str]]:
    """The same without a block, and in place of what was known: for where every microsecond counts."""
    return _about.set(fields)


def end(token: Token[Mapping[str, str]]) -> None:
    """What `begin` has begun is over."""
    _about.reset(token)


class LogFile:
    """Lines of one process on disk; safe to write to from threads."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._lock = threading.RLock()
        self._waiting: deque[str] = deque()
        self._some, self._over = threading.Event(), threading.Event()
        self._file: Any = None
        self._size_bytes = 0
        self._writer: threading.Thread | None = None

    def write(self, line: str) -> None:
        """Write a line, and those that wait, now."""
        with self._lock:
            self._waiting.append(line)
            self.flush()

    def write_soon(self, line: str) -> None:
        """Write a line together with others, within `WRITE_EVERY_S`; a killed process loses those."""
        self._waiting.append(line)
        if not self._some.is_set():
            self._some.set()
            if self._writer is None:
                self._begin()

    def flush(self) -> None:
        """Write what waits."""
        with self._lock:
            lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if not lines:
                return
            content = "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
            try:
                self._append(content)
            except OSError:
                self._forget()  # and try anew with the next line

    def close(self) -> None:
        """Write what waits, and let go."""
        self._over.set()
        self._some.set()
        self.flush()
        with self._lock:
            self._forget()

    def _begin(self) -> None:
        with self._lock:
            if self._writer is None:
                self._writer = threading.Thread(target=self._keep_writing, name="mizzen-log", daemon=True)
                self._writer.start()

    def _keep_writing(self) -> None:
        while not self._over.is_set():
            self._some.wait()
            self._over.wait(WRITE_EVERY_S)
            self._some.clear()  # before the lines are taken: one that comes now wakes us again
            self.flush()

    def _append(self, content: bytes) -> None:
        if self._file is not None and os.fstat(self._file.fileno()).st_nlink == 0:
            self._forget()  # somebody has deleted it: a new one, or nobody would see the lines
        if self._file is not None and self._size_bytes + len(content) > self._max_bytes:
            self._forget()
            _rotate(self.path)
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Without a buffer, and appending: a reader sees whole lines. For who runs it alone: lines tell of
            # keys' names, and of whatever a library has to say.
            number = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            self._file = os.fdopen(number, "ab", buffering=0)
            self._size_bytes = self._file.tell()
        self._file.write(content)
        self._size_bytes += len(content)

    def _forget(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _rotate(path: Path) -> None:
    for number in range(NUM_OLD, 0, -1):
        before = path.with_name(f"{path.name}.{number - 1}") if number > 1 else path
        if before.exists():
            before.replace(path.with_name(f"{path.name}.{number}"))


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON."""

    def __init__(self, facts: Mapping[str, str]) -> None:
        super().__init__()
        self.facts = facts

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        known = {**self.facts, **_about.get()}
        if "trace_id" not in known and (trace_id := tracing.current().trace_id):
            known["trace_id"] = trace_id
        content = {
            "time": moment(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": settings.without_secrets(record.getMessage()),
            **known,
        }
        if record.exc_info and record.exc_info[0] is not None:
            content["exception"] = settings.without_secrets(self.formatException(record.exc_info))
        return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


class _ToFile(logging.Handler):
    def __init__(self, file: LogFile, facts: Mapping[str, str]) -> None:
        super().__init__()
        self.file = file
        self.setFormatter(JsonFormatter(facts))

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        try:
            self.file.write(self.format(record))
        except Exception:
            # What logging itself does: a line that cannot be written must not end what it is about.
            self.handleError(record)


class _ToRoot(logging.Handler):
    """Hands our warnings on to whatever handlers a program has; the rest is for our files alone.

    Libraries put handlers there that print everything on stderr, between the lines that people are to read.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        logging.getLogger().handle(record)


def _is_not_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] != "mizzen"


_handlers: tuple[_ToFile, _ToRoot, _ToFile] | None = None
"""Of our loggers the first two, of all others the last."""


def start(what: str, **facts: str) -> LogFile:
    """From now on the log lines of this process go to `logs/<what>-<pid>.jsonl`, with `facts` in each.

    A process that has its file already keeps it.
    """
    global _handlers
    if _handlers is not None:
        return _handlers[0].file
    here = settings.current()
    clean(here.logs_dir)
    file = LogFile(here.logs_dir / f"{what}-{os.getpid()}.jsonl")
    _handlers = _ToFile(file, facts), _ToRoot(), _ToFile(file, facts)
    root, ours = logging.getLogger(), logging.getLogger("mizzen")
    if not root.handlers and logging.lastResort is not None:
        root.addHandler(logging.lastResort)  # warnings go on to stderr, as before there was a handler
    for handler in _handlers[:2]:
        ours.addHandler(handler)
    _handlers[2].addFilter(_is_not_ours)
    _handlers[2].setLevel(here.log_level)  # whatever a library has made of the root's
    root.addHandler(_handlers[2])
    ours.setLevel(here.log_level)
    ours.propagate = False
    threading.excepthook = _thread_failed
    atexit.register(file.close)
    return file


def stop() -> None:
    """Close the file of this process; its lines go where they went before."""
    global _handlers
    if _handlers is None:
        return
    before, _handlers = _handlers, None
    ours = logging.getLogger("mizzen")
    for handler in before[:2]:
        ours.removeHandler(handler)
    logging.getLogger().removeHandler(before[2])
    ours.propagate = True
    ours.setLevel(logging.NOTSET)
    threading.excepthook = threading.__excepthook__
    atexit.unregister(before[0].file.close)
    before[0].file.close()


def file() -> LogFile | None:
    """The file of this process, if it has one."""
    return _handlers[0].file if _handlers is not None else None


def _thread_failed(told: Any) -> None:
    name = told.thread.name if told.thread is not None else "a thread"
    logging.getLogger("mizzen.threads").error(
        "%s failed", name, exc_info=(told.exc_type, told.exc_value, told.exc_traceback)
    )
    threading.__excepthook__(told)

"""The ONNX sessions of one served version: one for each file, and their calls are spans while tracing is on.

How a session is opened is said in `store.runtime`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mizzen import tracing
from mizzen.store.runtime import OnnxRuntime, OnnxSession
from mizzen.workloads.contract import Arrays


class TracedRuntime(OnnxRuntime):
    """Opens sessions whose calls are spans, while tracing is on."""

    def session(self, path: Path) -> OnnxSession:
        """A session for the ONNX file at `path`."""
        session = super().session(path)
        return _Traced(session, path.name) if tracing.on() else session


class Sessions(TracedRuntime):
    """Gives one session for each file, however often it is asked: sessions can be shared."""

    def __init__(self, provider: str, num_threads: int) -> None:
        """See `OnnxRuntime`."""
        super().__init__(provider, num_threads)
        self._open: dict[Path, OnnxSession] = {}

    def session(self, path: Path) -> OnnxSession:
        """The session for the ONNX file at `path`."""
        if path not in self._open:
            self._open[path] = super().session(path)
        return self._open[path]


class _Traced(OnnxSession):
    """A session whose calls are spans, where they are part of a request that is recorded."""

    def __init__(self, session: OnnxSession, file: str) -> None:
        super().__init__(session._session, session.provider)
        self._file = file

    def run(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """See `OnnxSession`."""
        with tracing.part("engine", file=self._file, provider=self.provider):
            return super().run(inputs)

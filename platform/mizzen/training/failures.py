"""What ended a group of workers, in a sentence, from what Ray Train says of it.

It does not decide whether they are started again: `faults.Retries` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from mizzen.errors import IntegrityError, MizzenError, NoticeError, StoreError, TrainingError
from mizzen.training.faults import Failure

MAX_TRACEBACK_LINES = 12
Death = Literal["node", "process"]
DEATHS: dict[str, tuple[Death, str]] = {
    "low on memory": ("process", "Ray killed its process because the machine ran out of memory"),
    "node has died": ("node", "its machine is gone"),
    "worker process has died": (
        "process", "its process was killed (most often for want of memory), or it crashed",
    ),
    "killed by `ray.kill`": ("process", "its process was ended"),
    "temporarily unavailable": ("node", "its machine, or its process, cannot be reached any more"),
}  # fmt: skip
"""What Ray says at length of a worker that could not say anything itself."""
MORE_MEMORY = (
    "Give workers more memory (on Kubernetes: cluster.worker_memory), lower training.micro_batch_size, or "
    "spread the model's states with deepspeed.zero_stage; cluster.retries goes on from the last checkpoint."
)
DISCONNECTED = (
    "Connection closed by peer", "Connection reset by peer", "Broken pipe", "DistBackendError",
    "DistNetworkError", "Timed out waiting", "NCCL communicator was aborted", "Socket closed",
)  # fmt: skip
"""What survivors say when another worker is gone."""
ORDER = ("notice", "ours", "error", "store", "node", "process", "connection")
"""Of several workers' failures, the one with which it began, as far as can be told."""


def failure_of(cause: Any) -> Failure:
    """What ended the workers."""
    return _first(cause)[0]


def explained(cause: Any, earlier: Sequence[str] = ()) -> MizzenError:
    """The error that a run ends with: a sentence, and below it the lines of its traceback that matter.

    `earlier` are sentences about the failures after which it had gone on.
    """
    failure, error = _first(cause)
    history = "".join(f"\n  before: {sentence}" for sentence in earlier)
    inner = getattr(error, "cause", None) or error
    if isinstance(inner, MizzenError):
        if history:
            inner.what += history
        return inner
    lines = [line for line in str(error or "").splitlines() if line.strip()]
    below = "".join(f"\n  {line}" for line in lines[-MAX_TRACEBACK_LINES:])
    if failure.kind in ("node", "process"):
        return TrainingError(failure.sentence + history, remedy=MORE_MEMORY)
    return TrainingError(failure.sentence + below + history)


def _first(cause: Any) -> tuple[Failure, Any]:
    """The failure with which it began, and that worker's error."""
    errors: dict[int, Any] = getattr(cause, "worker_failures", None) or {}
    failures = [(_of_worker(rank, error), error) for rank, error in sorted(errors.items())]
    if not failures:
        return Failure("error", f"the run failed: {cause}"), None
    return min(failures, key=lambda each: ORDER.index(each[0].kind))


def _of_worker(rank: int, error: Any) -> Failure:
    inner = getattr(error, "cause", None) or error
    where = "; ".join(getattr(inner, "__notes__", ()))
    if isinstance(inner, NoticeError):
        return Failure("notice", str(inner), where)
    if isinstance(inner, MizzenError):
        passing = isinstance(inner, StoreError) and not isinstance(inner, IntegrityError)
        return Failure("store" if passing else "ours", f"worker {rank} of the run failed: {inner}", where)
    text = str(error)
    for phrase, (kind, sentence) in DEATHS.items():
        if phrase in text:
            return Failure(kind, f"worker {rank} of the run failed: {sentence}")
    lines = [line for line in text.splitlines() if line.strip()]
    said = lines[-1] if lines else ""
    name = type(inner).__name__
    if len(lines) < 2:  # the exception itself, not Ray's text with its traceback
        said = f"{name}: {said}" if said else name
    if any(phrase in f"{name}: {text}" for phrase in DISCONNECTED):
        return Failure("connection", f"worker {rank} of the run lost its connection to another: {said}")
    return Failure("error", f"worker {rank} of the run failed: {said}", where)

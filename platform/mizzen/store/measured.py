"""The store's series and spans: what it is asked for, what is published, and which aliases move.

Only processes that keep series anyway record them (`recording.is_on`): replicas, trainers, and whoever
publishes or moves an alias beside them. Who only looks something up leaves no files in `MIZZEN_HOME`. No
label holds an address or a key. Ray Train's checkpoints, and tables that are read from a bucket, do not pass
here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from mizzen import labels, metrics, recording, tracing
from mizzen.recording import Recorder
from mizzen.store.manifest import GateReport, Manifest

Operation = Literal["read", "write", "create", "list", "delete"]

_record = Recorder()


def expect(model: str) -> None:
    """Show counters of what may become of `model` at 0: an increase is seen only from a scraped value."""
    for operation in labels.OPERATION.values:
        _record.count(metrics.STORE_ERRORS, 0, operation=operation)
    for verdict in labels.GATE.values:
        _record.count(metrics.STORE_PUBLISHES, 0, model=model, gate=verdict)
    for check in labels.CHECK.values:
        _record.count(metrics.STORE_GATE_FAILURES, 0, model=model, check=check)


@contextmanager
def operation(name: Operation, no_failure: tuple[type[Exception], ...]) -> Iterator[None]:
    """One call of the object store; `no_failure` are answers that are told as errors."""
    span, recorded, started = tracing.part(f"store {name}"), recording.is_on(), time.perf_counter()
    try:
        yield
    except Exception as cause:
        if not isinstance(cause, no_failure):
            span.failed(type(cause).__name__)
            if recorded:
                _record.count(metrics.STORE_ERRORS, operation=name)
        raise
    finally:
        span.end()
        if recorded:
            _record.observe(metrics.STORE_OPERATION_DURATION, time.perf_counter() - started, operation=name)


def transferred(direction: Literal["read", "write"], size_bytes: int) -> None:
    """Bytes have gone to the store or come from it."""
    if recording.is_on():
        _record.count(metrics.STORE_TRANSFERRED, size_bytes, direction=direction)


def published(manifest: Manifest) -> None:
    """A version is in the store, whatever its gate has found."""
    if not recording.is_on():
        return
    record, gate = _record.bound(model=manifest.name), manifest.gate
    record.count(metrics.STORE_PUBLISHES, gate="passed" if gate.passed else "failed")
    for check in failed_checks(gate):
        record.count(metrics.STORE_GATE_FAILURES, check=check)
    record.set(metrics.STORE_VERSION_BYTES, manifest.size_bytes)
    if gate.parity:
        record.set(metrics.STORE_PARITY_ERROR, max(result.max_abs for result in gate.parity))
    if gate.quality is not None:
        record.set(metrics.STORE_QUALITY_LOSS, gate.quality.relative_loss)


def failed_checks(gate: GateReport) -> list[str]:
    """What a gate has refused a version for; empty if it has not."""
    if gate.passed:
        return []
    failed = []
    if not all(result.passed for result in gate.parity):
        failed.append("parity")
    if gate.quality is not None and not gate.quality.passed:
        failed.append("quality")
    return failed or ["nothing_judged"]


def alias_moved(model: str, alias: str) -> None:
    """An alias points at another version now."""
    if recording.is_on():
        _record.count(metrics.STORE_ALIAS_MOVES, model=model, alias=alias)

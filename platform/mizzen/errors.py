"""Every exception that Mizzen raises on purpose.

    MizzenError                    exit code   HTTP
    ├── InputError                     2        400   what the caller wrote is wrong
    │   ├── JobError                                  a job file
    │   ├── ServeFileError                            a serve file
    │   ├── DataError                                 a table, or a column of it
    │   ├── RequestError                              the body of an HTTP request
    │   ├── AuthenticationError         401   an API key is missing, or is not one of ours
    │   └── ForbiddenError              403   the API key may not do this
    ├── NotFoundError                  3        404   no such model, version, alias, data set or workload
    ├── GateError                      4        409   an export differs too much from its model
    ├── StoreError                     5        503   the store cannot be read or written
    │   ├── IntegrityError                            bytes do not match their digest
    │   └── ConflictError                       409   somebody else was first, too often
    ├── TrainingError                  6        500   a training run failed
    │   └── NoticeError                               it was told to end, and has
    ├── ServingError                   7        500   an application cannot be served
    │   ├── OverloadedError                     429   the queue is full, or a rate limit is reached: try later
    │   └── DeadlineError                       504   the answer would come too late
    └── ClusterError                   8        502   a cluster refuses, or cannot be reached

The text says what failed, the value seen, what is allowed, and what to do. Exceptions survive pickling.
"""

from __future__ import annotations

from typing import Any, ClassVar


class MizzenError(Exception):
    """Base of all: `what` failed, the value `saw`, what is `allowed`, and the `remedy`.

    `field` names the part of the input that is wrong; `code` tells programs what it is about, over HTTP.
    """

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(
        self,
        what: str,
        *,
        saw: object = None,
        allowed: str | None = None,
        remedy: str | None = None,
        field: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.saw = None if saw is None else str(saw)
        self.allowed = allowed
        self.remedy = remedy
        self.field = field
        self.code = code

    def __str__(self) -> str:
        parts = [self.what.rstrip(".")]
        if self.saw is not None:
            parts.append(f"saw {self.saw}")
        if self.allowed:
            parts.append(f"allowed: {self.allowed}")
        text = "; ".join(parts)
        return f"{text}. {self.remedy}" if self.remedy else text

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.what, self.__dict__)


def _rebuild(kind: type[MizzenError], what: str, state: dict[str, Any]) -> MizzenError:
    error = kind(what)
    error.__dict__.update(state)
    return error


class InputError(MizzenError):
    """What the caller wrote is wrong."""

    exit_code = 2
    http_status = 400


class JobError(InputError):
    """A job file is wrong."""


class ServeFileError(InputError):
    """A serve file is wrong."""


class DataError(InputError):
    """A table, or a column of it, is wrong."""


class RequestError(InputError):
    """The body of an HTTP request is wrong."""


class AuthenticationError(InputError):
    """An API key is missing, or is none of those that are accepted."""

    http_status = 401


class ForbiddenError(InputError):
    """The API key is one of ours, but may not do this."""

    http_status = 403


class NotFoundError(MizzenError):
    """There is no such model, version, alias, data set or workload."""

    exit_code = 3
    http_status = 404


class GateError(MizzenError):
    """An export differs too much from the model that it was made from."""

    exit_code = 4
    http_status = 409


class StoreError(MizzenError):
    """The store cannot be read or written."""

    exit_code = 5
    http_status = 503


class IntegrityError(StoreError):
    """Bytes do not match the digest under which they were stored."""


class ConflictError(StoreError):
    """Somebody else was first, too often."""

    http_status = 409


class TrainingError(MizzenError):
    """A training run failed."""

    exit_code = 6


class NoticeError(TrainingError):
    """A run's workers, or the run, were told to end, and have: it can go on from a checkpoint."""


class ServingError(MizzenError):
    """An application cannot be served."""

    exit_code = 7


class OverloadedError(ServingError):
    """The queue is full, or a rate limit is reached; `retry_after_s` seconds from now it may not be."""

    http_status = 429
    retry_after_s: float | None = None
    reason: str = "queue_full"
    """For metrics: `deadline` if there is room, but too late."""


class DeadlineError(ServingError):
    """The request's time is over, or would be before it is answered."""

    http_status = 504


class ClusterError(MizzenError):
    """Kubernetes or a Ray cluster refuses what was asked, or cannot be reached."""

    exit_code = 8
    http_status = 502

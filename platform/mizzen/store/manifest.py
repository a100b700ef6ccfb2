"""What the store says of a model version: frozen types, and the digest over them.

The digest of a version is the sha256 of its content in canonical JSON: all fields of the manifest but
`IDENTITY` (name, version, created_at, claim, digest), keys sorted, no spaces, UTF-8, floats as Python
prints them, NaN and infinities as the strings "NaN", "Infinity" and "-Infinity". Each file stands in it
with its path, size and sha256, so the digest covers every byte of the model, its gate report and its
lineage. It does not cover the name and the number: a version that is imported elsewhere keeps its digest.

It does not read or write the store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from mizzen.errors import IntegrityError, StoreError
from mizzen.workloads.contract import Fields, ModelIdentity, Precision

SCHEMA_VERSION = 1
IDENTITY = frozenset({"name", "version", "created_at", "claim", "digest"})
"""Fields of a manifest that its digest does not cover."""
NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?$"
ALIAS_PATTERN = r"^[a-z]([a-z0-9-]{0,45}[a-z0-9])?$"
"""An alias starts with a letter, so `name@3` is always a version."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Alias = Annotated[str, Field(pattern=ALIAS_PATTERN)]


class Record(Fields):
    """Base of what is written into the store: NaN and infinities survive JSON."""

    model_config = ConfigDict(ser_json_inf_nan="strings")


class FileEntry(Record):
    """One file of a version."""

    path: str
    """Relative to the version's folder, with forward slashes."""
    sha256: Sha256
    size_bytes: int = Field(ge=0)

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        parts = path.split("/")
        if (
            path != str(PurePosixPath(path))
            or path.startswith("/")
            or any(p in ("", ".", "..") for p in parts)
        ):
            raise ValueError("must be a relative path that stays inside the version's folder")
        if "\\" in path or ":" in path or any(ord(character) < 32 for character in path):
            raise ValueError("must not hold backslashes, colons or control characters")
        return path


class ParityResult(Record):
    """How far the export's outputs are from PyTorch's on one probe."""

    probe: str
    max_abs: float
    """Largest absolute difference over all outputs; infinite where they cannot be compared."""
    mean_abs: float
    tolerance: float | None
    """Largest `max_abs` allowed; None records the difference without judging it."""
    passed: bool
    problem: str | None = None
    """Why the outputs cannot be compared: a missing output, another shape, NaN or infinity."""


class QualityResult(Record):
    """The workload's quality metric with PyTorch and with the export, on the same held-out data."""

    metric: str
    higher_is_better: bool
    reference: float
    exported: float
    relative_loss: float
    """Share of `reference` that the export is worse by; negative if it is better."""
    limit: float
    passed: bool


class GateReport(Record):
    """Whether an export may stand in for its model, and why."""

    parity: tuple[ParityResult, ...]
    quality: QualityResult | None
    precision: Precision
    provider: str
    """The ONNX Runtime execution provider that it was judged on."""
    passed: bool

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        judged = self.quality is not None or any(result.tolerance is not None for result in self.parity)
        good = all(result.passed for result in self.parity) and (self.quality is None or self.quality.passed)
        if self.passed != (judged and good):
            raise ValueError("passed must follow from the results: all passed, and at least one was judged")
        return self

    def lines(self) -> list[str]:
        """The report for people, a line for each result."""
        return list(self._lines())

    def _lines(self) -> Iterator[str]:
        verdict = "passed" if self.passed else "FAILED"
        yield f"gate {verdict}: {self.precision} on {self.provider}"
        for result in self.parity:
            limit = "recorded only" if result.tolerance is None else f"at most {result.tolerance:.3g}"
            text = f"max {result.max_abs:.3g}, mean {result.mean_abs:.3g} ({limit})"
            yield f"  {_mark(result.passed)} parity, {result.probe}: {result.problem or text}"
        if self.quality is not None:
            q = self.quality
            yield (
                f"  {_mark(q.passed)} {q.metric}: {q.exported:.4g} exported, {q.reference:.4g} in PyTorch, "
                f"{q.relative_loss:+.2%} loss (at most {q.limit:.2%})"
            )
        if not self.parity and self.quality is None:
            yield "  nothing was judged: the workload has no probes"


def _mark(passed: bool) -> str:
    return "ok  " if passed else "FAIL"


class Lineage(Record):
    """Where a version comes from."""

    job: dict[str, Any]
    """The validated job file."""
    data_digest: str
    data_report: dict[str, Any]
    run_id: str
    code_version: str
    world_size: int = Field(ge=1)
    deepspeed: dict[str, Any]
    """The configuration that DeepSpeed was given."""
    libraries: dict[str, str]
    """Versions of the libraries that made it."""
    initial_metrics: dict[str, float] = Field(default_factory=dict)
    """On validation, before the first step."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """On validation, of the weights that were exported."""
    extra: dict[str, Any] = Field(default_factory=dict)


class Draft(Record):
    """A manifest before it has files, a version and a date: what `ModelStore.publish` is given."""

    name: Name
    workload: str
    precision: Precision
    quality: dict[str, float]
    """Metrics on the test split."""
    baselines: dict[str, dict[str, float]] = Field(default_factory=dict)
    gate: GateReport
    lineage: Lineage


class Manifest(Draft):
    """One immutable version of a model."""

    schema_version: Literal[1] = 1
    version: int = Field(ge=1)
    digest: Sha256
    created_at: datetime
    claim: str
    """Random; tells a publisher whose answer was lost that this version is its own."""
    files: tuple[FileEntry, ...] = Field(min_length=1)

    @field_validator("files")
    @classmethod
    def _distinct(cls, files: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
        paths = {entry.path for entry in files}
        if len(paths) != len(files):
            raise ValueError("a path stands there twice")
        for path in paths:
            if any(str(parent) in paths for parent in PurePosixPath(path).parents):
                raise ValueError(f"{path} lies below a path that is a file")
        return files

    @property
    def identity(self) -> ModelIdentity:
        """Name, version and digest, as every response shows them."""
        return ModelIdentity(self.name, self.version, self.digest)

    @property
    def size_bytes(self) -> int:
        """Size of all files together."""
        return sum(entry.size_bytes for entry in self.files)

    def to_json(self) -> bytes:
        """The bytes that the store keeps: indented JSON, for people who look."""
        return (self.model_dump_json(indent=2) + "\n").encode()


@dataclass(frozen=True)
class Candidate:
    """Exported files, and what the gate says of them: what training hands to the store."""

    folder: Path
    workload: str
    precision: Precision
    gate: GateReport


def content_digest(content: dict[str, Any]) -> str:
    """The digest (see the module's docstring) of a manifest as read from JSON."""
    covered = {key: value for key, value in content.items() if key not in IDENTITY}
    text = json.dumps(covered, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def make_manifest(
    draft: Draft, files: tuple[FileEntry, ...], *, version: int, created_at: datetime, claim: str
) -> Manifest:
    """The manifest of `draft` with `files`, its digest computed."""
    fields = {name: getattr(draft, name) for name in Draft.model_fields}
    blank = Manifest(
        **fields, version=version, digest="0" * 64, created_at=created_at, claim=claim, files=files
    )
    return blank.model_copy(update={"digest": content_digest(json.loads(blank.model_dump_json()))})


def parse_manifest(data: bytes, where: str) -> Manifest:
    """The manifest in `data`, its digest checked.

    Raises `IntegrityError`, or `StoreError` if a later Mizzen wrote it.
    """
    try:
        content: Any = json.loads(data)
        if not isinstance(content, dict):
            raise ValueError("not an object")
        digest = content_digest(content)
    except (ValueError, RecursionError) as cause:
        raise IntegrityError(f"{where} is not JSON ({cause})", remedy="Restore it from a backup.") from None
    schema = content.get("schema_version")
    if isinstance(schema, int) and schema > SCHEMA_VERSION:
        raise StoreError(
            f"{where} was written by a later Mizzen",
            saw=f"schema {schema}",
            allowed=f"schema {SCHEMA_VERSION}",
            remedy="Upgrade this installation.",
        )
    if content.get("digest") != digest:
        raise IntegrityError(
            f"{where} was changed after it was published: its digest does not fit its content",
            saw=str(content.get("digest")),
            allowed=digest,
            remedy="Restore it from a backup, or publish the model again.",
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as cause:
        problem = cause.errors(include_url=False)[0]
        field = ".".join(map(str, problem["loc"]))
        raise IntegrityError(
            f"{where} is no manifest: {field}: {problem['msg']}", remedy="Restore it from a backup."
        ) from None

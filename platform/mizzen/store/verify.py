"""Looks at everything in a store and lists what is wrong; it mends and deletes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mizzen.errors import IntegrityError, NotFoundError
from mizzen.store import aliases

if TYPE_CHECKING:
    from mizzen.store.manifest import Manifest
    from mizzen.store.store import ModelStore


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a store."""

    model: str
    version: int | None
    """None where the problem is an alias's."""
    where: str
    """The file of the version, `manifest`, or the alias."""
    what: str

    def __str__(self) -> str:
        version = "" if self.version is None else f"@{self.version}"
        return f"{self.model}{version}, {self.where}: {self.what}"


def problems(store: ModelStore, name: str | None = None) -> Iterator[Problem]:
    """Everything wrong with one model, or with all; each blob is read once.

    Raises `NotFoundError` for a name that is not there, `StoreError` if the store cannot be reached.
    """
    names = store.models() if name is None else [store.existing(name)]
    verdicts: dict[tuple[str, int], str | None] = {}
    for model in names:
        for version in store.versions(model):
            try:
                manifest = store.manifest(model, version)
            except IntegrityError as cause:
                yield Problem(model, version, "manifest", str(cause))
                continue
            yield from _damaged_files(store, manifest, verdicts)
        yield from _broken_aliases(store, model)


def _damaged_files(
    store: ModelStore, manifest: Manifest, verdicts: dict[tuple[str, int], str | None]
) -> Iterator[Problem]:
    for entry in manifest.files:
        blob = (entry.sha256, entry.size_bytes)
        if blob not in verdicts:
            verdicts[blob] = _damage(store, *blob)
        what = verdicts[blob]
        if what is not None:
            yield Problem(manifest.name, manifest.version, entry.path, what)


def _damage(store: ModelStore, sha256: str, size_bytes: int) -> str | None:
    try:
        for _ in store.blobs.read(sha256, size_bytes):
            pass
    except IntegrityError as cause:
        return str(cause)
    return None


def _broken_aliases(store: ModelStore, model: str) -> Iterator[Problem]:
    for alias in store.objects.folders(f"models/{model}/aliases"):
        try:
            moves = aliases.history(store.objects, model, alias)
            if moves and not store.manifest(model, moves[-1].version).gate.passed:
                what = "the alias points at a version that failed its gate"
                yield Problem(model, moves[-1].version, alias, what)
        except (IntegrityError, NotFoundError) as cause:
            yield Problem(model, None, alias, str(cause))

"""The model store: immutable versions of models, and aliases that point at them.

    blobs/sha256/ab/ab12...                     the bytes of files, by their digest
    models/NAME/versions/00000003.json          a manifest; creating it claims the number and publishes
    models/NAME/aliases/ALIAS/00000002.json     a move of an alias; the last one is in force
    audit/...                                   who did what; see `audit`

Blobs are written first, the manifest last and only if its number is free. So a reader sees a whole version
or none, whoever else publishes and whenever a publisher dies. A publisher that dies leaves blobs that
nothing names, which do no harm. It deletes no model.
"""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from mizzen.errors import ConflictError, GateError, InputError, IntegrityError, NotFoundError, StoreError
from mizzen.store import aliases, archive, audit, cache, measured, verify
from mizzen.store.aliases import AliasMove
from mizzen.store.blobs import Blobs, file_chunks
from mizzen.store.manifest import (
    ALIAS_PATTERN,
    NAME_PATTERN,
    Draft,
    FileEntry,
    Manifest,
    make_manifest,
    parse_manifest,
)
from mizzen.store.objects import AbsentError, Objects, TakenError, numbered

DEFAULT_ALIAS = "production"
CLAIM_ATTEMPTS = 100


class ModelStore:
    """Models by name below an obstore URL: `file://`, `s3://`, `gs://`, `az://`, `memory://`.

    A `file://` folder is made if it is not there. Credentials and endpoints are those that obstore finds in
    the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...). A `memory://` store lives as long as this
    object. Every method raises `StoreError` if the store cannot be reached or refuses.
    """

    def __init__(self, url: str) -> None:
        self.objects = Objects(url)
        self.blobs = Blobs(self.objects)

    @property
    def url(self) -> str:
        """The store's address, without credentials."""
        return self.objects.url

    # --- writing ----------------------------------------------------------------------------------

    def publish(self, draft: Draft, folder: Path) -> Manifest:
        """Store all files in `folder` as the next version of `draft.name`.

        Blobs that the store has are not sent again. Raises `StoreError`; nothing is visible then.
        """
        files = entries(folder)
        for entry in files:
            self.blobs.write(entry.sha256, entry.size_bytes, partial(file_chunks, folder / entry.path))
        return self.claim(draft, files)

    def claim(
        self, draft: Draft, files: tuple[FileEntry, ...], action: audit.Action = "version.publish"
    ) -> Manifest:
        """Publish `files`, whose blobs are stored, under the next free number. Raises `ConflictError`."""
        with audit.recorded(self.objects, action, draft.name, {"run": draft.lineage.run_id}) as learned:
            manifest = self._claim(draft, files)
            learned["version"] = manifest.version
        measured.published(manifest)
        return manifest

    def _claim(self, draft: Draft, files: tuple[FileEntry, ...]) -> Manifest:
        claim = uuid.uuid4().hex
        number = (self.versions(draft.name) or [0])[-1]
        for _ in range(CLAIM_ATTEMPTS):
            number += 1
            manifest = make_manifest(draft, files, version=number, created_at=datetime.now(UTC), claim=claim)
            key, data = version_key(draft.name, number), manifest.to_json()
            try:
                self.objects.create(key, data)
            except TakenError:
                # Either another publisher was first, or our own write went through and its answer was lost.
                if self.manifest(draft.name, number).claim != claim:
                    continue
            return parse_manifest(data, f"{self.url}/{key}")
        raise ConflictError(
            f"others publish {draft.name} all the time; no version number was free",
            saw=f"{CLAIM_ATTEMPTS} attempts",
            remedy="Publish again when they are done.",
        )

    def set_alias(
        self, name: str, version: int, alias: str, *, reason: str = "", by: str | None = None
    ) -> AliasMove:
        """Point `alias` at a version; an older one rolls back. `by` defaults to this user and machine.

        Raises `NotFoundError`, `InputError`, and `GateError` if the version did not pass its gate.
        """
        _check_alias(alias)
        manifest = self.manifest(name, version)
        if not manifest.gate.passed:
            raise GateError(
                f"{name}@{version} did not pass its gate, so no alias may point at it",
                saw="\n".join(manifest.gate.lines()),
                remedy="Publish a version that passes: train longer, or export at a higher precision.",
            )
        by = by or audit.somebody()
        details: audit.Details = {"version": version, "reason": reason}
        with audit.recorded(self.objects, "alias.move", f"{name}@{alias}", details, by=by):
            move = aliases.move(self.objects, name, alias, version, by=by, reason=reason)
        measured.alias_moved(name, alias)
        return move

    # --- reading ----------------------------------------------------------------------------------

    def models(self) -> list[str]:
        """Names of all models with at least one version, sorted."""
        names = [name for name in self.objects.folders("models") if re.fullmatch(NAME_PATTERN, name)]
        return [name for name in names if self.versions(name)]

    def versions(self, name: str) -> list[int]:
        """Numbers of all versions of a model, oldest first; empty if there is none."""
        _check_name(name)
        return self.objects.numbers(f"models/{name}/versions")

    def manifest(self, name: str, version: int) -> Manifest:
        """One version. Raises `NotFoundError`, and `IntegrityError` if its digest does not fit."""
        _check_name(name)
        key = version_key(name, version)
        try:
            data = self.objects.read(key)
        except AbsentError:
            raise self._no_version(name, str(version)) from None
        manifest = parse_manifest(data, f"{self.url}/{key}")
        if (manifest.name, manifest.version) != (name, version):
            raise IntegrityError(
                f"{self.url}/{key} is the manifest of another version",
                saw=f"{manifest.name}@{manifest.version}",
                allowed=f"{name}@{version}",
                remedy="Restore this object from a backup.",
            )
        return manifest

    def resolve(self, reference: str) -> Manifest:
        """The version that `NAME@VERSION`, `NAME@ALIAS` or `NAME` means now.

        A bare name means `NAME@production` if that alias was ever set, else the latest version whose gate
        passed. Raises `NotFoundError`.
        """
        name, at, which = reference.partition("@")
        if at and not which:
            raise InputError(
                "nothing stands after the @", saw=reference, allowed="NAME, NAME@3, NAME@production"
            )
        if which.isdigit():
            return self.manifest(name, int(which))
        _check_name(name)
        _check_alias(which or DEFAULT_ALIAS)
        move = aliases.current(self.objects, name, which or DEFAULT_ALIAS)
        if move is not None:
            return self.manifest(name, move.version)
        if which:
            raise self._no_version(name, which)
        for version in reversed(self.versions(name)):
            manifest = self.manifest(name, version)
            if manifest.gate.passed:
                return manifest
        raise self._no_version(name, "a version that passed its gate")

    def signs_of_change(self, reference: str) -> tuple[str, ...]:
        """Keys that are not there yet; once one is, `reference` may mean another version than now.

        Moves and versions are objects with ascending numbers that never change, so what tells of a change is
        the next number. Empty for a version that is there: it stays what it is. Ask before `resolve`, so
        that nothing between the two is missed.
        """
        name, _, which = reference.partition("@")
        _check_name(name)
        if which.isdigit():
            key = version_key(name, int(which))
            return () if self.objects.size(key) is not None else (key,)
        _check_alias(which or DEFAULT_ALIAS)
        moved = aliases.next_key(self.objects, name, which or DEFAULT_ALIAS)
        if which or not moved.endswith(numbered(1)):
            return (moved,)
        return moved, version_key(name, (self.versions(name) or [0])[-1] + 1)

    def has_changed(self, signs: tuple[str, ...]) -> bool:
        """Whether one of the keys in `signs` is there now: one request without a body for each.

        No ETag is needed for it, so it is as cheap on stores that know none.
        """
        return any(self.objects.size(key) is not None for key in signs)

    def aliases(self, name: str) -> dict[str, AliasMove]:
        """The move in force of each alias of a model."""
        _check_name(name)
        found = {}
        for alias in self.objects.folders(f"models/{name}/aliases"):
            move = aliases.current(self.objects, name, alias)
            if move is not None:
                found[alias] = move
        return found

    def history(self, name: str, alias: str) -> list[AliasMove]:
        """All moves of an alias, oldest first. Raises `NotFoundError` if it was never set."""
        _check_name(name)
        _check_alias(alias)
        moves = aliases.history(self.objects, name, alias)
        if not moves:
            raise self._no_version(name, alias)
        return moves

    def fetch(self, manifest: Manifest, cache_dir: Path) -> Path:
        """A folder with the version's files, all checked just now; see `cache.fetch`."""
        return cache.fetch(self.blobs, manifest, cache_dir)

    def existing(self, name: str) -> str:
        """`name`, if the store has a version of it. Raises `NotFoundError`."""
        if not self.versions(name):
            raise self._no_version(name, "any")
        return name

    def check(self) -> None:
        """Write a small object, see that it cannot be created twice, and remove it.

        Raises `StoreError` if the store does not do what publishing relies on.
        """
        key = f"checks/{uuid.uuid4().hex}"
        self.objects.create(key, b"")
        try:
            self.objects.create(key, b"")
        except TakenError:
            return
        else:
            raise StoreError(
                f"{self.url} lets an object be created twice, so two publishers could get one number",
                remedy="Use a store with conditional creates: S3, GCS, Azure, or a local file system.",
            )
        finally:
            self.objects.delete(key)

    def verify(self, name: str | None = None) -> list[verify.Problem]:
        """Everything that is wrong with one model or with all of them; empty if all is well."""
        return list(verify.problems(self, name))

    # --- archives ---------------------------------------------------------------------------------

    def export_archive(self, reference: str, file: Path) -> Manifest:
        """Write the version that `reference` means to one tar file."""
        manifest = self.resolve(reference)
        archive.write(self.blobs, manifest, file)
        return manifest

    def import_archive(self, file: Path, name: str | None = None) -> Manifest:
        """Publish the version in an archive under the next number of its own name, or of `name`.

        It keeps its digest, gate report and lineage; aliases do not travel.
        """
        if name is not None:
            _check_name(name)
        draft, files = archive.read(self.blobs, file)
        if name is not None:
            draft = draft.model_copy(update={"name": name})
        return self.claim(draft, files, "version.import")

    def _no_version(self, name: str, which: str) -> NotFoundError:
        versions = self.versions(name)
        if not versions:
            known = ", ".join(self.models()) or "none yet"
            return NotFoundError(
                f"{self.url} has no model {name!r}",
                allowed=f"its models: {known}",
                remedy="Train one with `mizzen train`, or look with `mizzen models list`.",
            )
        named = ", ".join(f"{alias} ({move.version})" for alias, move in self.aliases(name).items()) or "none"
        return NotFoundError(
            f"{name} has no such version",
            saw=which,
            allowed=f"versions {versions[0]} to {versions[-1]}, aliases {named}",
            remedy=f"Look with `mizzen models show {name}`.",
        )


def version_key(name: str, version: int) -> str:
    """Where a manifest lies."""
    return f"models/{name}/versions/{numbered(version)}"


def entries(folder: Path) -> tuple[FileEntry, ...]:
    """Every file below `folder`, hashed. Raises `StoreError` for an empty folder, a link or an odd name."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        if path.is_symlink() or not path.is_file():
            raise StoreError(f"{path} is not a plain file", remedy="Put plain files only into an export.")
        name = path.relative_to(folder).as_posix()
        try:
            entry = FileEntry(path=name, sha256=cache.sha256_of(path), size_bytes=path.stat().st_size)
        except ValidationError:
            raise StoreError("a file's name cannot be stored", saw=repr(name), remedy="Rename it.") from None
        found.append(entry)
    if not found:
        raise StoreError(f"there is nothing to publish in {folder}", remedy="Export the model first.")
    return tuple(found)


def _check_name(name: str) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        allowed = "1 to 47 lower-case letters, digits and dashes, no dash first or last"
        raise InputError("a model's name is wrong", saw=repr(name), allowed=allowed)


def _check_alias(alias: str) -> None:
    if not re.fullmatch(ALIAS_PATTERN, alias):
        allowed = "lower-case letters, digits and dashes, a letter first, no dash last"
        raise InputError("an alias is wrong", saw=repr(alias), allowed=allowed)

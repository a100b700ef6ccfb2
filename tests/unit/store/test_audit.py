"""The audit log: nothing is done that it does not tell of."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mizzen.errors import ConflictError, GateError, StoreError
from mizzen.store import audit
from mizzen.store.objects import Objects, TakenError
from mizzen.store.store import ModelStore


def told(store: ModelStore) -> list[tuple[str, str, str]]:
    return [(entry.action, entry.target, entry.outcome) for entry in audit.entries(store.objects)]


class Refusing(Objects):
    """A store that refuses to write objects whose keys end so."""

    ending = "no key ends so"

    def create(self, key: str, data: bytes) -> None:
        if key.endswith(self.ending):
            raise StoreError("cannot write")
        super().create(key, data)


def test_who_did_what_when_and_what_became_of_it(any_store: ModelStore) -> None:
    before = datetime.now(UTC)
    with audit.recorded(any_store.objects, "key.create", "abc", {"name": "shop"}) as learned:
        assert told(any_store) == [("key.create", "abc", "begun")]
        learned["number"] = 3
    (entry,) = audit.entries(any_store.objects)
    assert before <= entry.at <= datetime.now(UTC)
    assert "@" in entry.by
    assert (entry.action, entry.target, entry.outcome, entry.error) == ("key.create", "abc", "done", None)
    assert entry.details == {"name": "shop", "number": 3}


def test_an_action_that_fails_is_told_as_failed_without_its_message(store: ModelStore) -> None:
    with pytest.raises(ConflictError), audit.recorded(store.objects, "key.revoke", "abc"):
        raise ConflictError("with a secret in it")
    (entry,) = audit.entries(store.objects)
    assert (entry.outcome, entry.error) == ("failed", "ConflictError")
    assert "secret" not in str(entry)


def test_what_cannot_be_told_is_not_done(tmp_path: Path) -> None:
    objects = Refusing(f"file://{tmp_path}")
    objects.ending = ".json"
    done = []
    with (
        pytest.raises(StoreError, match=r"nothing was done \(key.revoke abc\): cannot write"),
        audit.recorded(objects, "key.revoke", "abc"),
    ):
        done.append(1)
    assert not done


def test_what_is_done_stays_done_if_only_its_outcome_cannot_be_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    objects = Refusing(f"file://{tmp_path}")
    objects.ending = ".outcome.json"
    with audit.recorded(objects, "key.revoke", "abc"):
        pass
    (entry,) = audit.entries(objects)
    assert entry.outcome == "begun"
    assert "the outcome of an action is missing" in caplog.text


def test_a_note_never_stands_in_the_way(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    objects = Refusing(f"file://{tmp_path}")
    audit.note(objects, "job.cancel", "run-1")
    objects.ending = ".json"
    audit.note(objects, "job.cancel", "run-2")
    assert [entry.target for entry in audit.entries(objects)] == ["run-1"]
    assert "job.cancel run-2 is missing in the audit log" in caplog.text


def test_a_write_whose_answer_was_lost_counts(tmp_path: Path) -> None:
    class Lossy(Objects):
        def create(self, key: str, data: bytes) -> None:
            super().create(key, data)
            raise TakenError("there already: the request was sent again")

    objects = Lossy(f"file://{tmp_path}")
    with audit.recorded(objects, "key.revoke", "abc"):
        pass
    assert [entry.outcome for entry in audit.entries(objects)] == ["done"]


def test_entries_come_in_order_and_from_a_time_on(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        moment = datetime(2026, 1, 1, tzinfo=UTC)

        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return cls.moment

    monkeypatch.setattr(audit, "datetime", Clock)
    times = [datetime(2026, 1, 30, 23, 59, tzinfo=UTC) + timedelta(minutes=minute) for minute in range(4)]
    for number, Clock.moment in enumerate(times):
        audit.note(store.objects, "job.cancel", f"run-{number}")
    monkeypatch.setattr(audit, "datetime", datetime)

    def since(moment: datetime | None) -> list[str]:
        return [entry.target for entry in audit.entries(store.objects, moment)]

    assert since(None) == ["run-0", "run-1", "run-2", "run-3"]
    assert since(times[0]) == ["run-0", "run-1", "run-2", "run-3"]
    assert since(times[1]) == ["run-1", "run-2", "run-3"]
    assert since(times[1] + timedelta(seconds=1)) == ["run-2", "run-3"]
    assert since(times[3] + timedelta(days=1)) == []


def test_what_is_no_entry_is_named_and_passed_over(
    store: ModelStore, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    audit.note(store.objects, "job.cancel", "run-1")
    (file,) = (root / "audit").rglob("*.outcome.json")
    file.with_name("000000.000000-0123456789ab.json").write_text("{")
    file.with_name("something-else.txt").write_text("{")
    assert [entry.target for entry in audit.entries(store.objects)] == ["run-1"]
    assert "0123456789ab is no entry of the audit log" in caplog.text


# --- what the store itself records ------------------------------------------------------------------


def test_versions_and_aliases_are_told(
    any_store: ModelStore, make_draft: Any, export: Path, tmp_path: Path
) -> None:
    manifest = any_store.publish(make_draft("films"), export)
    any_store.set_alias("films", manifest.version, "production", reason="better", by="somebody@here")
    any_store.export_archive("films@1", tmp_path / "films.tar")
    any_store.import_archive(tmp_path / "films.tar", "movies")
    published, moved, imported = audit.entries(any_store.objects)
    assert (published.action, published.target) == ("version.publish", "films")
    assert published.details == {"run": "run-1", "version": 1}
    assert (moved.action, moved.target, moved.by) == ("alias.move", "films@production", "somebody@here")
    assert moved.details == {"version": 1, "reason": "better"}
    assert (imported.action, imported.target) == ("version.import", "movies")
    assert {entry.outcome for entry in (published, moved, imported)} == {"done"}


def test_a_move_that_the_gate_forbids_never_begins(store: ModelStore, make_draft: Any, export: Path) -> None:
    store.publish(make_draft("films", passed=False), export)
    with pytest.raises(GateError):
        store.set_alias("films", 1, "production")
    assert [action for action, _, _ in told(store)] == ["version.publish"]


def test_nothing_is_published_or_moved_that_cannot_be_told(
    tmp_path: Path, make_draft: Any, export: Path
) -> None:
    store = ModelStore(f"file://{tmp_path}/store")
    store.publish(make_draft("films"), export)
    (tmp_path / "store" / "audit").rename(tmp_path / "audit")
    (tmp_path / "store" / "audit").write_text("no folder")
    with pytest.raises(StoreError, match="nothing was done"):
        store.publish(make_draft("films"), export)
    with pytest.raises(StoreError, match="nothing was done"):
        store.set_alias("films", 1, "production")
    assert store.versions("films") == [1]
    assert store.aliases("films") == {}

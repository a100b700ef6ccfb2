"""Moves of aliases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mizzen.errors import ConflictError, IntegrityError, NotFoundError
from mizzen.store import aliases
from mizzen.store.objects import Objects, TakenError
from mizzen.store.store import ModelStore


@pytest.fixture
def films(any_store: ModelStore, make_draft: Any, export: Path) -> ModelStore:
    for _ in range(3):
        any_store.publish(make_draft(), export)
    return any_store


def test_an_alias_moves_and_rolls_back_and_its_history_is_kept(films: ModelStore) -> None:
    films.set_alias("films", 1, "production", reason="first", by="ada")
    films.set_alias("films", 2, "production", reason="better", by="bob")
    films.set_alias("films", 1, "production", reason="it was not", by="ada")
    moves = films.history("films", "production")
    assert [(m.version, m.previous, m.by, m.reason) for m in moves] == [
        (1, None, "ada", "first"),
        (2, 1, "bob", "better"),
        (1, 2, "ada", "it was not"),
    ]
    assert moves[0].moved_at < moves[1].moved_at < moves[2].moved_at
    assert films.resolve("films@production").version == 1


def test_moving_to_where_it_points_already_is_no_move(films: ModelStore) -> None:
    first = films.set_alias("films", 1, "production")
    assert films.set_alias("films", 1, "production") == first
    assert len(films.history("films", "production")) == 1


def test_aliases_are_apart_from_each_other(films: ModelStore) -> None:
    films.set_alias("films", 1, "production")
    films.set_alias("films", 3, "candidate")
    assert {alias: move.version for alias, move in films.aliases("films").items()} == {
        "candidate": 3,
        "production": 1,
    }


def test_who_moved_it_is_recorded_without_being_asked(films: ModelStore) -> None:
    assert "@" in films.set_alias("films", 1, "production").by


def test_the_history_of_an_alias_that_was_never_set_is_not_found(films: ModelStore) -> None:
    with pytest.raises(NotFoundError):
        films.history("films", "production")


def test_an_alias_of_a_version_that_is_not_there_is_refused(films: ModelStore) -> None:
    with pytest.raises(NotFoundError):
        films.set_alias("films", 4, "production")


def test_two_who_move_it_at_once_are_both_in_the_history(films: ModelStore) -> None:
    class Interrupted(Objects):
        """Lets somebody else move the alias just before the first write."""

        interrupted = False

        def create(self, key: str, data: bytes) -> None:
            if not self.interrupted:
                self.interrupted = True
                films.set_alias("films", 2, "production", by="the other")
            super().create(key, data)

    slow = Interrupted("memory://")
    slow._store = films.objects._store
    aliases.move(slow, "films", "production", 1, by="the slow one", reason="")
    moves = films.history("films", "production")
    assert [(m.version, m.previous, m.by) for m in moves] == [(2, None, "the other"), (1, 2, "the slow one")]


def test_a_move_whose_answer_was_lost_is_made_once(films: ModelStore) -> None:
    class LostAnswer(Objects):
        def create(self, key: str, data: bytes) -> None:
            super().create(key, data)
            raise TakenError("the retry of a write that went through")

    lossy = LostAnswer("memory://")
    lossy._store = films.objects._store
    aliases.move(lossy, "films", "production", 1, by="me", reason="")
    assert len(films.history("films", "production")) == 1


def test_who_is_always_second_gives_up(films: ModelStore) -> None:
    class AlwaysLate(Objects):
        turn = 0

        def create(self, key: str, data: bytes) -> None:
            self.turn += 1
            aliases.move(films.objects, "films", "production", 2 + self.turn % 2, by="other", reason="")
            super().create(key, data)

    late = AlwaysLate("memory://")
    late._store = films.objects._store
    with pytest.raises(ConflictError):
        aliases.move(late, "films", "production", 1, by="me", reason="")


def test_a_move_that_was_damaged_is_refused_and_found(
    store: ModelStore, root: Path, make_draft: Any, export: Path
) -> None:
    store.publish(make_draft(), export)
    store.set_alias("films", 1, "production")
    (root / "models/films/aliases/production/00000001.json").write_text('{"version": "one"}')
    with pytest.raises(IntegrityError, match="not a move"):
        store.resolve("films")
    assert [problem.where for problem in store.verify()] == ["production"]


def test_a_damaged_move_of_the_past_is_found_by_verify(
    store: ModelStore, root: Path, make_draft: Any, export: Path
) -> None:
    for version in (1, 2):
        store.publish(make_draft(), export)
        store.set_alias("films", version, "production")
    folder = root / "models/films/aliases/production"
    (folder / "00000001.json").write_text("{}")
    (folder / "zz-notes.txt").write_text("not a move")
    assert store.resolve("films").version == 2
    assert [problem.where for problem in store.verify()] == ["production"]


@pytest.mark.parametrize("reference", ["films@production", "films"])
def test_the_sign_of_a_move_appears_with_the_move(films: ModelStore, reference: str) -> None:
    for version in (1, 2):
        signs = films.signs_of_change(reference)
        assert not films.has_changed(signs)
        films.set_alias("films", version, "production")
        assert films.has_changed(signs)


def test_the_sign_of_a_version_that_is_not_there_yet_appears_when_it_is_published(
    films: ModelStore, make_draft: Any, export: Path
) -> None:
    fixed, latest = films.signs_of_change("films@4"), films.signs_of_change("films")
    unknown = films.signs_of_change("cinema")
    assert films.signs_of_change("films@3") == ()
    assert not films.has_changed(fixed)
    assert not films.has_changed(latest)
    films.publish(make_draft(), export)
    assert films.has_changed(fixed)
    assert films.has_changed(latest)
    assert not films.has_changed(unknown)
    films.publish(make_draft(name="cinema"), export)
    assert films.has_changed(unknown)

"""API keys in the store."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mizzen.errors import InputError, IntegrityError, NotFoundError, StoreError
from mizzen.store import audit
from mizzen.store.keys import TOKEN, Keys, Rights, digest
from mizzen.store.objects import Objects, TakenError
from mizzen.store.store import ModelStore

RIGHTS = Rights(apps=("films",), actions=("infer",), requests_per_minute=5, tokens_per_minute=7)


@pytest.fixture
def keys(any_store: ModelStore) -> Keys:
    return Keys(any_store.objects)


def test_a_key_has_256_random_bits_and_names_its_record(keys: Keys) -> None:
    made = [keys.create("shop", RIGHTS) for _ in range(20)]
    for one in made:
        match = TOKEN.fullmatch(one.token.encode())
        assert match
        assert match["id"].decode() == one.record.id
        assert one.record.proves(one.token.encode())
    secrets = [one.token.rpartition("_")[2] for one in made]
    assert all(len(bytes.fromhex(secret)) == 32 for secret in secrets)
    assert len(set(secrets)) == len({one.record.id for one in made}) == 20


def test_only_a_salted_hash_is_kept(tmp_path: Path) -> None:
    keys = Keys(Objects(f"file://{tmp_path}"))
    made = keys.create("shop", RIGHTS)
    keys.revoke(made.record.id)
    everything = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert made.record.hash.encode() in everything
    assert made.token.rpartition("_")[2].encode() not in everything


def test_the_same_key_has_another_hash_with_another_salt_and_another_purpose() -> None:
    import hashlib

    one, other = digest(b"key", b"1" * 16), digest(b"key", b"2" * 16)
    assert one != other
    assert one != hashlib.blake2b(b"key", salt=b"1" * 16, digest_size=32).digest()


def test_keys_are_listed_with_their_rights_and_states(keys: Keys) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    active, guest, gone = (
        keys.create("shop", RIGHTS),
        keys.create("guest", Rights(expires_at=soon)),
        keys.create("gone", Rights()),
    )
    keys.revoke(gone.record.id)
    listed = keys.all()
    assert [one.record for one in listed] == [active.record, guest.record, gone.record]
    assert [one.state(soon - timedelta(minutes=1)) for one in listed] == ["active", "active", "revoked"]
    assert [one.state(soon) for one in listed] == ["active", "expired", "revoked"]
    assert active.record.model_dump(include=set(Rights.model_fields)) == RIGHTS.model_dump()


def test_what_a_replica_asks_tells_keys_from_revocations(keys: Keys) -> None:
    one, other = keys.create("one", Rights()), keys.create("other", Rights())
    keys.revoke(other.record.id)
    names = keys.names()
    assert Keys.ids(names) == {one.record.id}
    assert Keys.revoked(names) == {other.record.id}
    assert Keys.ids(["README.md", "nothex.json", f"{'a' * 12}.json.tmp"]) == set()


def test_revoking_twice_keeps_the_first_revocation(keys: Keys) -> None:
    made = keys.create("shop", RIGHTS)
    first = keys.revoke(made.record.id).revocation
    assert keys.revoke(made.record.id).revocation == first


def test_two_admins_at_once_undo_nothing_of_each_other(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    first = Keys(Objects(url)).create("first", Rights()).record.id
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: Keys(Objects(url)).create(f"key-{number}", Rights()), range(12)))
        revoked = list(pool.map(lambda _: Keys(Objects(url)).revoke(first).revocation, range(4)))
    found = Keys(Objects(url)).all()
    assert {one.record.id for one in found} == {first, *(one.record.id for one in made)}
    assert [one.record.id for one in found if one.revocation] == [first]
    assert all(one == revoked[0] for one in revoked)


@pytest.mark.parametrize("key_id", ["", "0" * 12, "../models", "ABCDEF012345", "0" * 11])
def test_a_key_that_is_not_there_is_not_found(keys: Keys, key_id: str) -> None:
    for act in (keys.read, keys.revoke):
        with pytest.raises(NotFoundError, match="mizzen keys list"):
            act(key_id)


def test_whoever_gives_a_whole_key_does_not_read_it_again_in_the_error(keys: Keys) -> None:
    token = keys.create("shop", RIGHTS).token
    with pytest.raises(NotFoundError) as error:
        keys.revoke(token)
    assert token.rpartition("_")[2] not in str(error.value)


@pytest.mark.parametrize("name", ["", "Shop", "-a", "a" * 48, "../x"])
def test_a_name_that_is_wrong_makes_no_key(keys: Keys, name: str) -> None:
    with pytest.raises(InputError, match="a key's name is wrong"):
        keys.create(name, RIGHTS)
    assert keys.all() == []
    assert audit.entries(keys.objects) == []


def test_a_key_is_not_expired_from_the_start(keys: Keys) -> None:
    with pytest.raises(InputError, match="expired from the start"):
        keys.create("shop", Rights(expires_at=datetime.now(UTC) - timedelta(seconds=1)))


def test_what_is_done_to_keys_is_in_the_audit_log_without_secrets(keys: Keys) -> None:
    made = keys.create("shop", RIGHTS)
    keys.revoke(made.record.id)
    created, revoked = audit.entries(keys.objects)
    assert (created.action, created.target, created.outcome) == ("key.create", made.record.id, "done")
    assert created.details == {
        "name": "shop", "apps": "films", "actions": "infer", "expires_at": "never",
        "requests_per_minute": 5, "tokens_per_minute": 7,
    }  # fmt: skip
    assert (revoked.action, revoked.target, revoked.outcome) == ("key.revoke", made.record.id, "done")
    said = str([created, revoked])
    assert not [
        secret
        for secret in (*made.token.split("_")[2:], made.record.hash, made.record.salt)
        if secret in said
    ]


def test_a_key_that_the_audit_log_cannot_tell_of_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("no folder")
    keys = Keys(Objects(f"file://{tmp_path}"))
    with pytest.raises(StoreError, match="nothing was done"):
        keys.create("shop", RIGHTS)
    assert keys.all() == []


def test_a_write_whose_answer_was_lost_makes_one_key(tmp_path: Path) -> None:
    class Lossy(Objects):
        def create(self, key: str, data: bytes) -> None:
            super().create(key, data)
            raise TakenError("there already: the request was sent again")

    keys = Keys(Lossy(f"file://{tmp_path}"))
    made = keys.create("shop", RIGHTS)
    assert keys.read(made.record.id) == made.record
    assert keys.revoke(made.record.id).revocation


@pytest.mark.parametrize("content", ["{", "{}", '{"id": "x"}'])
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    keys = Keys(Objects(f"file://{tmp_path}"))
    made = keys.create("shop", RIGHTS)
    (tmp_path / "keys" / f"{made.record.id}.json").write_text(content)
    with pytest.raises(IntegrityError, match=re.escape(f"keys/{made.record.id}.json")):
        keys.read(made.record.id)


def test_a_record_under_another_id_is_refused(tmp_path: Path) -> None:
    keys = Keys(Objects(f"file://{tmp_path}"))
    made = keys.create("shop", RIGHTS)
    file = tmp_path / "keys" / f"{made.record.id}.json"
    file.rename(file.with_name("0123456789ab.json"))
    with pytest.raises(IntegrityError, match="the record of another key"):
        keys.read("0123456789ab")


def test_fields_of_a_later_mizzen_are_passed_over(tmp_path: Path) -> None:
    keys = Keys(Objects(f"file://{tmp_path}"))
    made = keys.create("shop", RIGHTS)
    file = tmp_path / "keys" / f"{made.record.id}.json"
    content: Any = file.read_text().replace('"name"', '"from_the_future": 1, "name"', 1)
    file.write_text(content)
    assert keys.read(made.record.id) == made.record

"""API keys from the store, as a replica keeps them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mizzen.errors import AuthenticationError, ServingError, StoreError
from mizzen.serving import key_store
from mizzen.serving.access import Grant
from mizzen.serving.key_store import StoredKeys
from mizzen.serving.limits import Limit
from mizzen.store.keys import Keys, Rights
from mizzen.store.objects import Objects

Now = Callable[[], datetime]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


@pytest.fixture
def keys(url: str) -> Keys:
    return Keys(Objects(url))


def accepts(stored: StoredKeys, token: str) -> bool:
    return stored.find([token.encode()]) is not None


def test_a_key_is_accepted_with_its_rights(url: str, keys: Keys) -> None:
    rights = Rights(apps=("films",), actions=("infer",), requests_per_minute=5, tokens_per_minute=7)
    made, free = keys.create("shop", rights), keys.create("team", Rights())
    stored = StoredKeys(url)
    assert stored.find([made.token.encode()]) == Grant(
        "shop", frozenset({"films"}), frozenset({"infer"}), Limit(made.record.id, 5, 7)
    )
    assert stored.find([b"wrong", free.token.encode()]) == Grant("team")


def test_anything_else_is_refused(url: str, keys: Keys) -> None:
    token, other = keys.create("shop", Rights()).token, keys.create("team", Rights()).token
    stored = StoredKeys(url)
    last = "0" if token[-1] != "0" else "1"
    mixed = other.rpartition("_")[0] + "_" + token.rpartition("_")[2]
    for wrong in ("", "mz_", token[:-1], token + "0", token[:-1] + last, token.upper(), f" {token}", mixed):
        assert not accepts(stored, wrong)
    assert stored.find([]) is None
    assert stored.find(["mz_ö".encode(), b"\xff" * 100_000]) is None


def test_a_key_is_known_by_its_hash_alone(url: str, keys: Keys) -> None:
    token = keys.create("shop", Rights()).token
    stored = StoredKeys(url)
    assert accepts(stored, token)
    assert token.rpartition("_")[2] not in repr([vars(stored), stored._known])


def test_an_unknown_id_costs_what_a_known_one_does(
    url: str, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = keys.create("shop", Rights()).token
    stored = StoredKeys(url)
    hashed: list[int] = []
    blake2b = hashlib.blake2b

    def counted(data: bytes, **more: Any) -> Any:
        hashed.append(len(data))
        return blake2b(data, **more)

    monkeypatch.setattr(hashlib, "blake2b", counted)
    for given in (token, token[:-1] + "g", f"mz_{'0' * 12}_{'0' * 64}", token[:16] + "0" * 64):
        stored.find([given.encode()])
    assert hashed == [len(token), 0, len(token), len(token)]
    hashed.clear()
    stored.find([f"mz_{number:012x}_{'0' * 64}".encode() for number in range(1000)])
    assert len(hashed) == key_store.MAX_GIVEN


def test_keys_that_are_made_and_revoked_later_are_seen(url: str, keys: Keys) -> None:
    first = keys.create("first", Rights())
    stored = StoredKeys(url)
    second = keys.create("second", Rights())
    assert not accepts(stored, second.token)
    stored.refresh()
    assert accepts(stored, second.token)
    keys.revoke(first.record.id)
    stored.refresh()
    assert not accepts(stored, first.token)
    assert accepts(stored, second.token)


def test_the_store_is_asked_again_and_again_in_the_background(
    url: str, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_store, "REFRESH_S", 0.001)
    keys.create("first", Rights())
    stored = StoredKeys(url)
    stored.follow()
    second = keys.create("second", Rights())
    try:
        deadline = datetime.now(UTC) + timedelta(seconds=30)
        while not accepts(stored, second.token):
            assert datetime.now(UTC) < deadline
    finally:
        stored.close()


def test_nothing_ends_the_looking_up(
    url: str, keys: Keys, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(key_store, "REFRESH_S", 0.001)
    first = keys.create("first", Rights())
    stored = StoredKeys(url)
    names, failures = Keys.names, iter(range(3))

    def fails_at_first(self: Keys) -> list[str]:
        if next(failures, None) is not None:
            raise RuntimeError("can't start new thread")
        return names(self)

    monkeypatch.setattr(Keys, "names", fails_at_first)
    keys.revoke(first.record.id)
    stored.follow()
    try:
        deadline = datetime.now(UTC) + timedelta(seconds=30)
        while accepts(stored, first.token):
            assert datetime.now(UTC) < deadline
    finally:
        stored.close()
    assert caplog.text.count("could not be looked up") == 3


def test_a_key_ends_with_its_time_and_only_its_owner_is_told(url: str, keys: Keys) -> None:
    now = [datetime.now(UTC)]
    made = keys.create("guest", Rights(expires_at=now[0] + timedelta(hours=1)))
    stored = StoredKeys(url, now=lambda: now[0])
    assert accepts(stored, made.token)
    now[0] += timedelta(hours=1)
    with pytest.raises(AuthenticationError, match="has expired"):
        stored.find([made.token.encode()])
    assert stored.find([made.token[:-4].encode() + b"0000"]) is None


@pytest.mark.parametrize("left", ["nothing", "a bare folder", "something else"])
def test_while_the_store_is_away_the_last_known_keys_go_on_and_expiry_still_ends_them(
    url: str, keys: Keys, tmp_path: Path, caplog: pytest.LogCaptureFixture, left: str
) -> None:
    caplog.set_level(logging.INFO)
    now = [datetime.now(UTC)]
    made = keys.create("team", Rights())
    guest = keys.create("guest", Rights(expires_at=now[0] + timedelta(hours=1)))
    stored = StoredKeys(url, now=lambda: now[0])
    (tmp_path / "store").rename(tmp_path / "away")
    if left == "a bare folder":
        (tmp_path / "store").mkdir()
    elif left == "something else":
        (tmp_path / "store").write_text("no folder")
    for _ in range(3):
        stored.refresh()
    assert accepts(stored, made.token)
    now[0] += timedelta(hours=2)
    with pytest.raises(AuthenticationError, match="has expired"):
        stored.find([guest.token.encode()])
    assert caplog.text.count("those known go on") == 1
    if left == "a bare folder":
        (tmp_path / "store").rmdir()
    elif left == "something else":
        (tmp_path / "store").unlink()
    (tmp_path / "away").rename(tmp_path / "store")
    keys.revoke(made.record.id)
    stored.refresh()
    assert not accepts(stored, made.token)
    assert "answers again" in caplog.text
    assert made.token.rpartition("_")[2] not in caplog.text


def test_a_revocation_takes_effect_even_if_new_keys_cannot_be_read(
    url: str, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = keys.create("old", Rights())
    stored = StoredKeys(url)
    keys.create("new", Rights())
    keys.revoke(old.record.id)

    def away(*_: Any) -> Any:
        raise StoreError("away")

    monkeypatch.setattr(Keys, "read", away)
    stored.refresh()
    assert not accepts(stored, old.token)


def test_a_damaged_record_keeps_no_other_key_out(
    url: str, keys: Keys, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = keys.create("good", Rights()), keys.create("bad", Rights())
    (tmp_path / "store" / "keys" / f"{bad.record.id}.json").write_text("{")
    stored = StoredKeys(url)
    stored.refresh()
    assert accepts(stored, good.token)
    assert not accepts(stored, bad.token)
    assert caplog.text.count(bad.record.id) == 1


def test_a_store_without_a_valid_key_is_refused_with_what_to_do(url: str, keys: Keys) -> None:
    with pytest.raises(ServingError, match=r"no API key in file://.*mizzen keys create NAME"):
        StoredKeys(url)
    soon = datetime.now(UTC) + timedelta(hours=1)
    keys.create("guest", Rights(expires_at=soon))
    keys.revoke(keys.create("gone", Rights()).record.id)
    with pytest.raises(ServingError, match=r"saw 1 that are not revoked, all of them expired"):
        StoredKeys(url, now=lambda: soon)
    assert StoredKeys(url)

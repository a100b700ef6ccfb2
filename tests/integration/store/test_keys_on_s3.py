"""API keys and the audit log on S3: the same create-only objects as on disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from mizzen.errors import ServingError
from mizzen.serving.key_store import StoredKeys
from mizzen.store import audit
from mizzen.store.keys import Keys, Rights
from mizzen.store.objects import Objects


def test_keys_are_made_by_two_admins_at_once_revoked_and_told_of(bucket: str) -> None:
    with ThreadPoolExecutor(2) as admins:
        one, other = admins.map(lambda name: Keys(Objects(bucket)).create(name, Rights()), ("one", "other"))
        stored = StoredKeys(bucket)
        assert stored.find([one.token.encode()])
        assert stored.find([other.token.encode()])
        both = list(admins.map(lambda _: Keys(Objects(bucket)).revoke(one.record.id), range(2)))
    assert both[0].revocation == both[1].revocation
    stored.refresh()
    assert stored.find([one.token.encode()]) is None
    assert stored.find([other.token.encode()])
    told = [(entry.action, entry.target, entry.outcome) for entry in audit.entries(Objects(bucket))]
    assert sorted(told) == sorted(
        [
            ("key.create", one.record.id, "done"),
            ("key.create", other.record.id, "done"),
            ("key.revoke", one.record.id, "done"),
            ("key.revoke", one.record.id, "done"),
        ]
    )


def test_a_bucket_without_keys_is_no_failure_of_the_store(bucket: str) -> None:
    assert Keys(Objects(bucket)).all() == []
    with pytest.raises(ServingError, match="there is no API key in s3://"):
        StoredKeys(bucket)

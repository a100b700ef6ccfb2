"""Whether a store does what publishing relies on."""

from pathlib import Path

import pytest

from mizzen.errors import StoreError
from mizzen.store.store import ModelStore


def test_a_store_with_conditional_creates_passes_and_is_left_empty(tmp_path: Path) -> None:
    store = ModelStore(f"file://{tmp_path}")
    store.check()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


class Forgetful(ModelStore):
    """A store that lets an object be created twice, as some S3 look-alikes do."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        create = self.objects.create

        def overwrite(key: str, data: bytes) -> None:
            if self.objects.size(key) is not None:
                self.objects.delete(key)
            create(key, data)

        self.objects.create = overwrite  # type: ignore[method-assign]


def test_a_store_without_conditional_creates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="twice"):
        Forgetful(f"file://{tmp_path}").check()

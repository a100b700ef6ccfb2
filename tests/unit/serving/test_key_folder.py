"""API keys in a folder: which are accepted, and what becomes of them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from mizzen.errors import ServingError
from mizzen.serving import key_folder
from mizzen.serving.access import MAX_GIVEN, Grant
from mizzen.serving.key_folder import KeyFolder

KEY = "k" * 16
OTHER = "o" * 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two keys, mounted as Kubernetes mounts a Secret."""
    folder = tmp_path / "api-keys"
    folder.mkdir()
    mount(folder, "..one", {"team": KEY + "\n", "ci": OTHER})
    return folder


def mount(folder: Path, version: str, keys: dict[str, str]) -> None:
    (folder / version).mkdir()
    for name, key in keys.items():
        (folder / version / name).write_text(key)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "..data_tmp").symlink_to(version)
    (folder / "..data_tmp").rename(folder / "..data")


def accepts(keys: KeyFolder, key: str) -> bool:
    return keys.find([key.encode()]) is not None


def test_every_key_in_the_folder_is_accepted_and_no_other(folder: Path) -> None:
    keys = KeyFolder(folder)
    assert accepts(keys, KEY)
    assert accepts(keys, OTHER)
    for wrong in ("", KEY[:-1], KEY + "k", KEY + "\n", KEY.upper(), "ö" * 16):
        assert not accepts(keys, wrong)
    assert keys.find([]) is None
    assert keys.find([b"wrong", KEY.encode()]) == Grant("team")


def test_a_request_with_a_flood_of_keys_has_only_the_first_few_looked_at(folder: Path) -> None:
    keys = KeyFolder(folder)
    wrong = [b"wrong"] * (MAX_GIVEN - 1)
    assert keys.find([*wrong, KEY.encode()]) is not None
    assert keys.find([*wrong, b"wrong", KEY.encode()]) is None


def test_keys_are_not_kept_in_the_clear(folder: Path) -> None:
    assert KEY not in repr(vars(KeyFolder(folder)))


def test_keys_that_come_and_go_take_effect_without_a_restart(folder: Path) -> None:
    keys = KeyFolder(folder)
    mount(folder, "..two", {"team": "n" * 20})
    (folder / "ci").unlink()
    keys.refresh()
    assert accepts(keys, "n" * 20)
    assert not accepts(keys, KEY)
    assert not accepts(keys, OTHER)


def test_the_folder_is_looked_at_again_when_our_knowledge_is_old(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = KeyFolder(folder)
    mount(folder, "..two", {"team": "n" * 20})
    assert not accepts(keys, "n" * 20)
    monkeypatch.setattr(key_folder, "RECHECK_S", 0.0)
    assert accepts(keys, "n" * 20)


def test_a_key_that_could_not_be_read_is_tried_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = KeyFolder(folder)
    mount(folder, "..two", {"team": "n" * 20})
    read_text = Path.read_text

    def no_descriptor_left(*_: Any, **__: Any) -> str:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Path, "read_text", no_descriptor_left)
    keys.refresh()
    assert not accepts(keys, "n" * 20)
    monkeypatch.setattr(Path, "read_text", read_text)
    keys.refresh()
    assert accepts(keys, "n" * 20)


def test_without_any_key_left_nobody_is_let_through(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = KeyFolder(folder)
    for file in folder.glob("[!.]*"):
        file.unlink()
    keys.refresh()
    assert not accepts(keys, KEY)
    assert "every request is refused" in caplog.text


def test_a_short_key_that_is_added_later_is_left_out_and_not_logged(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    keys = KeyFolder(folder)
    (folder / "weak").write_text("tooshort")
    keys.refresh()
    assert not accepts(keys, "tooshort")
    assert accepts(keys, KEY)
    assert "weak" in caplog.text
    assert not {"tooshort", KEY, OTHER} & set(caplog.text.replace("'", " ").split())


@pytest.mark.parametrize("content", [None, "", "  \n"])
def test_a_folder_without_a_key_is_refused_with_what_to_do(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "team").write_text(content)
    with pytest.raises(ServingError, match=r"no API key in .*openssl rand"):
        KeyFolder(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="no API key"):
        KeyFolder(tmp_path / "no")


def test_a_key_that_is_too_short_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "team").write_text("k" * 15)
    with pytest.raises(ServingError, match=r"'team'.*15 characters.*16 or more.*openssl") as refused:
        KeyFolder(tmp_path)
    assert "kkk" not in str(refused.value)


def test_a_short_key_beside_a_good_one_keeps_no_replica_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "weak").write_text("tooshort")
    (tmp_path / "team").write_text(KEY)
    keys = KeyFolder(tmp_path)
    assert accepts(keys, KEY)
    assert not accepts(keys, "tooshort")
    assert "weak" in caplog.text

"""API keys: who is let through, and what becomes of the folder."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from mizzen.errors import AuthenticationError, ServingError
from mizzen.serving import auth
from mizzen.serving.auth import ApiKeys, Authentication

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


def accepts(keys: ApiKeys, key: str) -> bool:
    return keys.accept([key.encode()])


def test_every_key_in_the_folder_is_accepted_and_no_other(folder: Path) -> None:
    keys = ApiKeys(folder)
    assert accepts(keys, KEY)
    assert accepts(keys, OTHER)
    for wrong in ("", KEY[:-1], KEY + "k", KEY + "\n", KEY.upper(), "ö" * 16):
        assert not accepts(keys, wrong)
    assert not keys.accept([])
    assert keys.accept([b"wrong", KEY.encode()])


def test_keys_are_not_kept_in_the_clear(folder: Path) -> None:
    assert KEY not in repr(vars(ApiKeys(folder)))


def test_keys_that_come_and_go_take_effect_without_a_restart(folder: Path) -> None:
    keys = ApiKeys(folder)
    mount(folder, "..two", {"team": "n" * 20})
    (folder / "ci").unlink()
    keys.refresh()
    assert accepts(keys, "n" * 20)
    assert not accepts(keys, KEY)
    assert not accepts(keys, OTHER)


def test_the_folder_is_looked_at_again_when_our_knowledge_is_old(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ApiKeys(folder)
    mount(folder, "..two", {"team": "n" * 20})
    assert not accepts(keys, "n" * 20)
    monkeypatch.setattr(auth, "RECHECK_S", 0.0)
    assert accepts(keys, "n" * 20)


def test_a_key_that_could_not_be_read_is_tried_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ApiKeys(folder)
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
    keys = ApiKeys(folder)
    for file in folder.glob("[!.]*"):
        file.unlink()
    keys.refresh()
    assert not accepts(keys, KEY)
    assert "every request is refused" in caplog.text


def test_a_short_key_that_is_added_later_is_left_out_and_not_logged(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    keys = ApiKeys(folder)
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
        ApiKeys(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="no API key"):
        ApiKeys(tmp_path / "no")


def test_a_key_that_is_too_short_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "team").write_text("k" * 15)
    with pytest.raises(ServingError, match=r"'team'.*15 characters.*16 or more.*openssl") as refused:
        ApiKeys(tmp_path)
    assert "kkk" not in str(refused.value)


def test_a_short_key_beside_a_good_one_keeps_no_replica_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "weak").write_text("tooshort")
    (tmp_path / "team").write_text(KEY)
    keys = ApiKeys(tmp_path)
    assert keys.accept([KEY.encode()])
    assert not keys.accept([b"tooshort"])
    assert "weak" in caplog.text


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def get(app: Authentication, path: str, headers: dict[str, str]) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, root_path="/shop")
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(f"/shop{path}", headers=headers)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY} "},
        {"X-API-Key": KEY},
        {"Authorization": "Basic dXNlcjpwYXNz", "X-API-Key": KEY},
    ],
)
def test_a_key_is_taken_from_either_header(folder: Path, headers: dict[str, str]) -> None:
    assert get(Authentication(hello, ApiKeys(folder)), "/v1/x", headers).text == "hello"


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "an API key is needed"),
        ({"Authorization": KEY}, "an API key is needed"),
        ({"Authorization": f"Basic {KEY}"}, "an API key is needed"),
        ({"Authorization": "Bearer"}, "not accepted"),
        ({"Authorization": "Bearer wrong"}, "not accepted"),
        ({"X-API-Key": f"Bearer {KEY}"}, "not accepted"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/x", "/docs", "/openapi.json", "/metrics", "/examples", "/readyz/"])
def test_anything_else_is_refused(folder: Path, headers: dict[str, str], said: str, path: str) -> None:
    with pytest.raises(AuthenticationError, match=said):
        get(Authentication(hello, ApiKeys(folder)), path, headers)


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_need_no_key(folder: Path, path: str) -> None:
    assert get(Authentication(hello, ApiKeys(folder)), path, {}).is_success


def test_a_websocket_needs_a_key_too(folder: Path) -> None:
    sent: list[Message] = []
    reached: list[Any] = []

    async def inside(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope)

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    app = Authentication(inside, ApiKeys(folder))
    asyncio.run(app({"type": "websocket", "path": "/x", "headers": []}, receive, send))
    assert (sent, reached) == ([{"type": "websocket.close", "code": 1008}], [])
    scope = {"type": "websocket", "path": "/x", "headers": [(b"X-Api-Key", KEY.encode())]}
    asyncio.run(app(scope, receive, send))
    assert reached == [scope]

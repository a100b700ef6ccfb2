from __future__ import annotations

import inspect
import pickle

import httpx
import pytest

from mizzen.client import errors
from mizzen.client.errors import APIStatusError, ClientError

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ClientError)]


def response(status: int, content: bytes, **headers: str) -> httpx.Response:
    return httpx.Response(
        status, content=content, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.BadRequestError),
        (401, errors.AuthenticationError),
        (403, errors.PermissionDeniedError),
        (404, errors.NotFoundError),
        (405, errors.BadRequestError),
        (408, errors.ServerError),
        (409, errors.ConflictError),
        (413, errors.BadRequestError),
        (415, errors.BadRequestError),
        (422, errors.BadRequestError),
        (429, errors.RateLimitError),
        (500, errors.ServerError),
        (503, errors.ServerError),
        (599, errors.ServerError),
    ],
)
def test_each_status_has_its_kind(status: int, kind: type[APIStatusError]) -> None:
    error = errors.of_response(response(status, b"{}"))
    assert type(error) is kind
    assert error.status_code == status


def test_the_servers_words_are_kept() -> None:
    said = b'{"error": {"message": "seed: too large", "type": "t", "param": "seed", "code": "invalid_value"}}'
    error = errors.of_response(response(400, said, mizzen_request_id="r1"))
    assert str(error) == "400: seed: too large"
    assert (error.param, error.code, error.request_id) == ("seed", "invalid_value", "r1")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'{"error": "no such tensor"}', "400: no such tensor"),
        (b"<html>\n  Bad   gateway</html>", "400: <html> Bad gateway</html>"),
        (b"", "400: Bad Request"),
        (b"[1]", "400: [1]"),
        (b"\xff\xfe", "400: "),
    ],
)
def test_an_answer_of_somebody_else_is_quoted(content: bytes, text: str) -> None:
    assert str(errors.of_response(response(400, content))).startswith(text)


def test_a_long_page_is_cut() -> None:
    assert len(str(errors.of_response(response(502, b"x" * 10_000)))) < 600


@pytest.mark.parametrize(
    ("said", "seconds"), [("2", 2.0), ("0.5", 0.5), ("", None), ("soon", None), ("-1", None), ("nan", None)]
)
def test_a_wait_is_read_if_it_is_one(said: str, seconds: float | None) -> None:
    error = errors.of_response(response(429, b"{}", retry_after=said))
    assert isinstance(error, errors.RateLimitError)
    assert error.retry_after_s == seconds


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling_with_all_it_says(kind: type[ClientError]) -> None:
    error = kind("it broke", saw=1)
    error.__dict__.update(status_code=429, request_id="r")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert copy.__dict__ == error.__dict__
    assert kind.__name__ in (errors.__doc__ or "")

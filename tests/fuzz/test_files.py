"""Job and serve files of any content: they are read, or refused with an exit code; nothing else happens."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mizzen.errors import JobError, MizzenError, NotFoundError, ServeFileError
from mizzen.serving import spec
from mizzen.training import job

SERVE: dict[str, Any] = {
    "http": {"host": "127.0.0.1", "port": 8000},
    "apps": [
        {
            "name": "shop",
            "model": "shop@production",
            "route_prefix": "/shop",
            "replicas": {"min": 1, "max": 3, "target_ongoing_requests": 4},
            "num_cpus": 0.5,
            "max_ongoing_requests": 64,
            "max_request_bytes": 4096,
            "timeout_s": 5,
            "cors": {"origins": ["https://shop.example", "http://127.0.0.1:3000"]},
            "batching": {"max_batch_size": 8, "wait_s": 0.01},
            "options": {"a": [1, None, {"b": "c"}]},
        },
        {"name": "other", "model": "other"},
    ],
}
JOB: dict[str, Any] = {
    "name": "films",
    "workload": "recommendation",
    "data": {"dataset": "movielens-100k"},
    "model": {"hidden_size": 32},
    "training": {"epochs": 2, "learning_rate": 0.01, "schedule": {"type": "cosine", "warmup_steps": 3}},
    "scaling": {"workers": 2},
    "deepspeed": {"zero_stage": 1, "extra": {"wall_clock_breakdown": True}},
}

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=30)
    | st.dates()
    | st.binary(max_size=5)
    | st.sampled_from(
        ["", "*", "~", "/", "//", "../..", "@", "a" * 100, "shop@", "0.0.0.0", "::", "1e999", "é"]
    )
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | scalars, inner, max_size=4)
    ),
    max_leaves=8,
)


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in `content` but itself."""
    if path:
        yield path
    items = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for key, value in items:
        yield from places(value, (*path, key))


@st.composite
def nearly(draw: st.DrawFn, valid: dict[str, Any]) -> Any:
    """`valid`, with some things in it changed."""
    content = copy.deepcopy(valid)
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(sorted(places(content), key=repr)))
        holder = content
        for part in path[:-1]:
            holder = holder[part]
        match draw(st.sampled_from(["value", "gone", "more"])):
            case "gone":
                del holder[path[-1]]
            case "more" if isinstance(holder, dict):
                holder[draw(st.text(max_size=8))] = draw(values)
            case _:
                holder[path[-1]] = draw(values)
        if not content:
            break
    return content


def texts(valid: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Files: any bytes, YAML of any kind, a valid file that was cut or has something in it."""
    whole = yaml.safe_dump(valid).encode()
    cut = st.integers(0, len(whole)).map(lambda end: whole[:end])
    inserted = st.builds(
        lambda at, what: whole[:at] + what + whole[at:],
        st.integers(0, len(whole)),
        st.binary(max_size=6)
        | st.sampled_from(
            [b"&a *a", b"!!python/object:os.system x", b"<<: ", b"\t", b": ", b"- ", b"{", b"? ", b"%"]
        ),
    )
    anything = values.map(lambda value: yaml.dump(value).encode("utf-8", "replace"))
    return st.binary(max_size=60) | cut | inserted | anything | nearly(valid).map(_dumped)


def _dumped(content: Any) -> bytes:
    return yaml.dump(content, allow_unicode=True).encode("utf-8", "replace")


def fuzzing(effort: Callable[[int], int], num_examples: int) -> settings:
    return settings(
        max_examples=effort(num_examples),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize(
    ("valid", "load", "errors"),
    [(SERVE, spec.load, (ServeFileError,)), (JOB, job.load, (JobError, NotFoundError))],
    ids=["serve", "job"],
)
def test_a_file_is_read_or_refused_with_its_exit_code(
    valid: dict[str, Any],
    load: Callable[[Path], Any],
    errors: tuple[type[MizzenError], ...],
    tmp_path: Path,
    effort: Callable[[int], int],
) -> None:
    file = tmp_path / "file.yaml"
    read = refused = 0

    @fuzzing(effort, 100)
    @given(text=texts(valid))
    def look(text: bytes) -> None:
        nonlocal read, refused
        file.write_bytes(text)
        try:
            found = load(file)
        except errors as cause:
            assert cause.exit_code in (2, 3)
            assert str(cause).isprintable() or "\n" in str(cause)
            refused += 1
        else:
            # What was read and is written again means the same.
            again = tmp_path / "again.yaml"
            again.write_text(yaml.safe_dump(found.model_dump(mode="json")))
            assert load(again) == found
            read += 1

    look()
    assert read
    assert refused


@pytest.mark.parametrize(
    "assignment", ["training.epochs=3", "data", "=", "a.b.c=[1", "training=5", "training.epochs.x=1"]
)
def test_an_assignment_is_applied_or_refused(assignment: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(JOB))
    if assignment == "training.epochs=3":
        assert job.load(file, [assignment]).training.epochs == 3
        return
    with pytest.raises(JobError):
        job.load(file, [assignment])


def test_any_assignment_is_applied_or_refused(tmp_path: Path, effort: Callable[[int], int]) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(JOB))

    @fuzzing(effort, 50)
    @given(
        key=st.sampled_from(["training.epochs", "data", "model.hidden_size", "training", "deepspeed.extra"])
        | st.text(max_size=12),
        value=st.text(max_size=20) | values.map(lambda value: yaml.dump(value)),
    )
    def look(key: str, value: str) -> None:
        try:
            job.load(file, [f"{key}={value}"])
        except JobError as cause:
            assert cause.exit_code == 2

    look()

"""The types that the store keeps, and the digest over them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mizzen.errors import IntegrityError, StoreError
from mizzen.store.manifest import (
    Draft,
    FileEntry,
    GateReport,
    Lineage,
    Manifest,
    ParityResult,
    QualityResult,
    content_digest,
    make_manifest,
    parse_manifest,
)

FILE = FileEntry(path="model.onnx", sha256="a" * 64, size_bytes=3)
NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


def a_manifest(make_draft: Any, **updates: Any) -> Manifest:
    draft = make_draft().model_copy(update=updates)
    return make_manifest(draft, (FILE,), version=1, created_at=NOW, claim="c")


def parity(**updates: Any) -> ParityResult:
    fields: dict[str, Any] = {"probe": "p", "max_abs": 0.1, "mean_abs": 0.1, "tolerance": 0.2, "passed": True}
    return ParityResult(**(fields | updates))


def gate(**updates: Any) -> GateReport:
    fields: dict[str, Any] = {
        "parity": (parity(),),
        "quality": None,
        "precision": "fp32",
        "provider": "CPUExecutionProvider",
        "passed": True,
    }
    return GateReport(**(fields | updates))


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "/etc/passwd",
        "../up",
        "a/../b",
        "a/./b",
        "a//b",
        "a/",
        "./a",
        "a\\b",
        "c:x",
        "a\nb",
        "a\0b",
    ],
)
def test_a_path_that_could_leave_the_folder_is_refused(path: str) -> None:
    with pytest.raises(ValidationError):
        FileEntry(path=path, sha256="a" * 64, size_bytes=0)


@given(st.text())
def test_every_path_that_is_accepted_stays_in_the_folder(path: str) -> None:
    try:
        entry = FileEntry(path=path, sha256="a" * 64, size_bytes=0)
    except ValidationError:
        return
    parts = entry.path.split("/")
    assert all(part and part not in (".", "..") for part in parts)


@pytest.mark.parametrize("paths", [("a", "a"), ("a", "a/b"), ("x/y/z", "x")])
def test_files_that_cannot_lie_side_by_side_are_refused(paths: tuple[str, ...], make_draft: Any) -> None:
    files = tuple(FileEntry(path=path, sha256="a" * 64, size_bytes=0) for path in paths)
    with pytest.raises(ValidationError):
        make_manifest(make_draft(), files, version=1, created_at=NOW, claim="c")


def test_the_digest_is_the_sha256_that_the_docstring_describes() -> None:
    # printf '{"a":"ä","b":[1.5,"NaN"]}' | sha256sum
    content = {
        "b": [1.5, "NaN"],
        "a": "ä",
        "name": "x",
        "version": 3,
        "created_at": "",
        "claim": "",
        "digest": "",
    }
    expected = "6399208c846bd4649195da537a071aa901886e393e88496d4b7fd1e0a82d845b"
    assert content_digest(content) == content_digest({"a": "ä", "b": [1.5, "NaN"]}) == expected


def test_the_digest_does_not_depend_on_name_number_or_date(make_draft: Any) -> None:
    draft = make_draft()
    one = make_manifest(draft, (FILE,), version=1, created_at=NOW, claim="c")
    later = datetime(2027, 1, 1, tzinfo=UTC)
    renamed = draft.model_copy(update={"name": "other"})
    assert make_manifest(renamed, (FILE,), version=9, created_at=later, claim="d").digest == one.digest


@pytest.mark.parametrize(
    "update", [{"precision": "int8"}, {"quality": {"ndcg@10": 0.2}}, {"gate": gate(provider="other")}]
)
def test_the_digest_changes_with_the_content(update: dict[str, Any], make_draft: Any) -> None:
    assert a_manifest(make_draft, **update).digest != a_manifest(make_draft).digest


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(
    job=st.dictionaries(st.text(), json_values, max_size=4), metrics=st.dictionaries(st.text(), st.floats())
)
def test_a_manifest_survives_the_store_whatever_numbers_and_texts_it_holds(
    job: dict[str, Any], metrics: dict[str, float]
) -> None:
    lineage = Lineage(
        job=job,
        data_digest="",
        data_report={},
        run_id="",
        code_version="",
        world_size=1,
        deepspeed={},
        libraries={},
        metrics=metrics,
    )
    draft = Draft(name="m", workload="w", precision="fp32", quality=metrics, gate=gate(), lineage=lineage)
    manifest = make_manifest(draft, (FILE,), version=1, created_at=NOW, claim="c")
    read = parse_manifest(manifest.to_json(), "here")
    assert read.digest == manifest.digest
    assert read.to_json() == manifest.to_json()


def test_a_changed_manifest_is_refused(make_draft: Any) -> None:
    changed = a_manifest(make_draft).to_json().replace(b'"world_size": 2', b'"world_size": 8')
    with pytest.raises(IntegrityError, match="digest does not fit"):
        parse_manifest(changed, "here")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b"NaN", b'{"a": NaN, "digest": "x"}'])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        parse_manifest(data, "here")


def test_a_manifest_of_a_later_mizzen_asks_for_an_upgrade(make_draft: Any) -> None:
    content = json.loads(a_manifest(make_draft).to_json()) | {"schema_version": 2, "new": 1}
    with pytest.raises(StoreError, match="Upgrade"):
        parse_manifest(json.dumps(content).encode(), "here")


def test_a_field_that_is_wrong_is_named_even_if_the_digest_fits(make_draft: Any) -> None:
    content = json.loads(a_manifest(make_draft).to_json())
    content["files"][0]["path"] = "../../etc/passwd"
    content["digest"] = content_digest(content)
    with pytest.raises(IntegrityError, match=r"files\.0\.path"):
        parse_manifest(json.dumps(content).encode(), "here")


@pytest.mark.parametrize(
    "updates",
    [
        {"passed": False},
        {"parity": (), "passed": True},
        {"parity": (parity(), parity(passed=False)), "passed": True},
        {"parity": (parity(tolerance=None),), "passed": True},
    ],
)
def test_a_verdict_that_its_results_contradict_is_refused(updates: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="passed must follow"):
        gate(**updates)


def test_the_report_for_people_names_each_result() -> None:
    quality = QualityResult(
        metric="ndcg@10",
        higher_is_better=True,
        reference=0.1,
        exported=0.09,
        relative_loss=0.1,
        limit=0.02,
        passed=False,
    )
    report = gate(
        parity=(
            parity(probe="batch 8", tolerance=None),
            parity(probe="batch 1", problem="odd", passed=False),
        ),
        quality=quality,
        precision="int8",
        passed=False,
    )
    text = "\n".join(report.lines())
    assert "FAILED: int8" in text
    assert "batch 8: max 0.1, mean 0.1 (recorded only)" in text
    assert "FAIL parity, batch 1: odd" in text
    assert "FAIL ndcg@10: 0.09 exported, 0.1 in PyTorch, +10.00% loss (at most 2.00%)" in text

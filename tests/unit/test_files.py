from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mizzen.errors import JobError
from mizzen.files import read_yaml, set_value, validate
from mizzen.workloads.contract import Fields


class Inner(Fields):
    size: int = 1
    name: str = ""


class Outer(Fields):
    seed: int
    inner: Inner = Inner()
    several: tuple[Inner, ...] = ()
    maybe: Inner | None = None


def read(tmp_path: Path, text: str | bytes) -> dict[str, Any]:
    file = tmp_path / "job.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(file, JobError)


def test_a_mapping_is_read_as_it_stands(tmp_path: Path) -> None:
    assert read(tmp_path, "a: 1\nb: {c: [x, 2.5]}\n") == {"a": 1, "b": {"c": ["x", 2.5]}}


@pytest.mark.parametrize(
    "text", ["a: 1\nb: 2\na: 3\n", "x:\n  - {a: 1, a: 1}\n", "x: {y: {a: 1, b: 2, a: 2}}\n"]
)
def test_a_key_that_stands_twice_is_refused_with_its_place(tmp_path: Path, text: str) -> None:
    with pytest.raises(JobError, match=r"the key 'a' stands here twice(.|\n)*line \d"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "mapping of fields; saw NoneType"),
        ("- a\n- b\n", "mapping of fields; saw list"),
        ("just a text", "mapping of fields; saw str"),
        ("1: a\n", "mapping of fields"),
        ("a: [1, 2\n", "not valid YAML"),
        ("a: !!python/object:os.system {}\n", "not valid YAML"),
        ("? [a, b]\n: c\n", "a key must be a text"),
        ("a: 2026-02-31\n", "not valid YAML"),
        (b"a: \xff\xfe\n", "text file in UTF-8"),
        ("a: \x00\n", "not valid YAML"),
        ("a: " + "[" * 5000, "not valid YAML"),
    ],
)
def test_what_is_no_mapping_in_yaml_is_refused(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(JobError, match=says):
        read(tmp_path, text)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"no such file; saw .*nowhere\.yaml\. Check the path"):
        read_yaml(tmp_path / "nowhere.yaml", JobError)
    with pytest.raises(JobError, match="cannot read"):
        read_yaml(tmp_path, JobError)


# Texts that look like YAML: plain random text is nearly always just a scalar.
WORDS = "a : - [ ] { } , &x *x <<: !! !t ' \" | > ? % # ~ 1e9 0x 2026-13-40 12:61:99 = --- ... 'a': b:"
pieces = st.sampled_from([*WORDS.split(), " ", "  ", "\n", "\t"])
yaml_like = st.lists(st.one_of(pieces, st.text(max_size=3)), max_size=25).map("".join)


@given(text=yaml_like)
def test_any_text_gives_a_mapping_or_a_job_error(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(text.encode(errors="surrogatepass"))
    try:
        content = read_yaml(file, JobError)
    except JobError:
        return
    assert isinstance(content, dict)


@given(assignment=st.one_of(st.text(), yaml_like, yaml_like.map("a.b=".__add__)))
def test_any_set_assignment_is_applied_or_a_job_error(assignment: str) -> None:
    content: dict[str, Any] = {}
    try:
        set_value(content, assignment, JobError)
    except JobError:
        assert content in ({}, {"a": {}})
        return
    assert content


scalars = st.none() | st.booleans() | st.integers() | st.text()


@settings(max_examples=40)
@given(
    content=st.dictionaries(
        st.text(), st.recursive(scalars, lambda x: st.lists(x) | st.dictionaries(st.text(), x))
    )
)
def test_what_yaml_writes_is_read_back(
    content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "round.yaml"
    file.write_text(yaml.safe_dump(content, allow_unicode=False))
    assert read_yaml(file, JobError) == content


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("seed=3", {"seed": 3}),
        ("inner.size=4", {"inner": {"size": 4}}),
        ("inner.name=a=b", {"inner": {"name": "a=b"}}),
        ("inner.name='3'", {"inner": {"name": "3"}}),
        ("several=[{size: 1}]", {"several": [{"size": 1}]}),
        ("maybe=", {"maybe": None}),
        (" seed =3", {"seed": 3}),
    ],
)
def test_set_reads_the_value_as_yaml(assignment: str, expected: dict[str, Any]) -> None:
    content: dict[str, Any] = {}
    set_value(content, assignment, JobError)
    assert content == expected


def test_set_changes_one_value_and_leaves_its_neighbours() -> None:
    content = {"seed": 1, "inner": {"size": 1, "name": "x"}}
    set_value(content, "inner.size=7", JobError)
    assert content == {"seed": 1, "inner": {"size": 7, "name": "x"}}


@pytest.mark.parametrize("assignment", ["seed", "=3", ".=3", "a..b=3", "inner.=3", ""])
def test_set_without_a_key_and_a_value_is_refused_with_an_example(assignment: str) -> None:
    with pytest.raises(JobError, match=r"allowed: for instance training\.epochs=3"):
        set_value({}, assignment, JobError)


def test_set_below_a_value_that_is_no_section_is_refused() -> None:
    with pytest.raises(JobError, match="seed is not a section; saw 3"):
        set_value({"seed": 3}, "seed.deep=1", JobError)


def test_set_with_a_value_that_is_no_yaml_is_refused() -> None:
    with pytest.raises(JobError, match=r"value of --set seed is not valid YAML(.|\n)*saw \[1"):
        set_value({}, "seed=[1", JobError)


def test_an_unknown_field_is_refused_with_the_fields_that_there_are() -> None:
    with pytest.raises(JobError) as caught:
        validate(Outer, {"seed": 1, "sede": 2}, JobError, "job.yaml")
    assert str(caught.value) == (
        "job.yaml is wrong: sede: no such field; allowed: seed, inner, several, maybe"
    )
    assert caught.value.field == "sede"


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"inner": {"sise": 2}}, r"inner\.sise"),
        ({"maybe": {"sise": 2}}, r"maybe\.sise"),
        ({"several": [{}, {"sise": 2}]}, r"several\.1\.sise"),
    ],
)
def test_an_unknown_field_below_a_section_lists_the_fields_of_the_section(
    content: dict[str, Any], field: str
) -> None:
    with pytest.raises(JobError, match=rf"{field}: no such field; allowed: size, name$"):
        validate(Outer, {"seed": 1, **content}, JobError, "job.yaml")


def test_all_wrong_fields_are_named_at_once_with_the_value_seen() -> None:
    with pytest.raises(JobError) as caught:
        validate(Outer, {"inner": {"size": "big"}}, JobError, "job.yaml", prefix="model")
    assert "model.seed: is missing" in str(caught.value)
    assert "model.inner.size: input should be a valid integer" in str(caught.value)
    assert "saw 'big'" in str(caught.value)


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(JobError) as caught:
        validate(Outer, {"seed": "x" * 1000}, JobError, "job.yaml")
    assert len(str(caught.value)) < 250

"""Reads the YAML files that people write, and says what is wrong with them in their own terms."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from mizzen.errors import InputError

M = TypeVar("M", bound=BaseModel)


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping: YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if isinstance(key, (list, dict)):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a text", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands here twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, error: type[InputError]) -> dict[str, Any]:
    """The mapping in the YAML file at `path`. Raises `error`."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise error("no such file", saw=str(path), remedy="Check the path.") from None
    except (OSError, UnicodeDecodeError) as cause:
        raise error(f"cannot read {path}: {cause}", allowed="a text file in UTF-8") from None
    try:
        content = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as cause:
        raise error(f"{path} is not valid YAML: {cause}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise error(
            f"{path} does not hold a mapping of fields",
            saw=type(content).__name__,
            allowed="`field: value` lines",
        )
    return content


def plain(content: dict[str, Any]) -> dict[str, Any]:
    """`content`, which must be the same when it has travelled as JSON. Raises `ValueError`.

    YAML also knows dates, bytes, keys that are no texts and numbers that are none.
    """
    try:
        same = json.loads(json.dumps(content, allow_nan=False)) == content
    except (TypeError, ValueError):
        same = False
    if not same:
        raise ValueError("must hold texts, numbers, true, false, null, lists, and mappings of texts to these")
    return content


def set_value(content: dict[str, Any], assignment: str, error: type[InputError]) -> None:
    """Apply one `--set section.key=value` to `content`; the value is read as YAML."""
    key, equals, text = assignment.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise error("--set takes key=value", saw=assignment, allowed="for instance training.epochs=3")
    try:
        value = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError) as cause:
        raise error(f"the value of --set {key} is not valid YAML: {cause}", saw=text) from None
    section = content
    for part in parts[:-1]:
        below = section.setdefault(part, {})
        if not isinstance(below, dict):
            raise error(f"--set {key}: {part} is not a section", saw=repr(below), field=key)
        section = below
    section[parts[-1]] = value


def validate(model: type[M], content: Any, error: type[InputError], where: str, prefix: str = "") -> M:
    """`content` as a `model`. Raises `error` with every wrong field's full name, value and remedy."""
    try:
        return model.model_validate(content)
    except ValidationError as cause:
        raise explain(cause, model, error, where, prefix) from None


def explain(
    cause: ValidationError, model: type[BaseModel], error: type[InputError], where: str, prefix: str = ""
) -> InputError:
    """One error that names each wrong field, what was seen and what is allowed."""
    lines: list[str] = []
    first = ""
    for problem in cause.errors(include_url=False):
        name = ".".join(_printable(part) for part in (*([prefix] if prefix else []), *problem["loc"]))
        first = first or name
        if problem["type"] == "extra_forbidden":
            fields = _fields_at(model, problem["loc"][:-1])
            allowed = f"; allowed: {', '.join(fields)}" if fields else ""
            lines.append(f"{name}: no such field{allowed}")
        elif problem["type"] == "missing":
            lines.append(f"{name}: is missing")
        else:
            lines.append(f"{name}: {_sentence(problem['msg'])} (saw {_short(problem['input'])})")
    return error(f"{where} is wrong: " + "; ".join(lines), field=first or None)


def _sentence(message: str) -> str:
    for start in ("Value error, ", "Assertion failed, "):
        message = message.removeprefix(start)
    return message[:1].lower() + message[1:]


def _printable(part: object) -> str:
    """A field's name, which may be anything: what a terminal would obey is written as an escape."""
    text = str(part)
    return text[:80] if text.isprintable() else ascii(text)[1:-1][:80]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _fields_at(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    kind: Any = model
    for part in loc:
        if isinstance(part, int):  # an item of a list: `kind` is its type already
            continue
        fields: Mapping[str, Any] = getattr(kind, "model_fields", {})
        if part not in fields:
            return []
        kind = fields[str(part)].annotation
        kind = next((a for a in getattr(kind, "__args__", ()) if hasattr(a, "model_fields")), kind)
    return list(getattr(kind, "model_fields", {}))

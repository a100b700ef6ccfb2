"""Makes the chart's `values.schema.json`, and the table of values in its README, from `values.yaml`.

    python helm/reference.py           writes both
    python helm/reference.py --check   fails if a file is not what would be written

A value is documented by the comment above it that starts with `# --`. A line `# @schema KEY: VALUE` in it
goes into the schema. The schema of `apps` and `http` is that of a serve file, so one text serves a laptop
and a cluster. It needs Mizzen installed; it does not run helm.
"""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from value_shapes import BY_NAME, BY_PATH, GROUP, GROUP_NAME, GROUPS

from mizzen.serving.spec import PREFIX, ServeSpec

CHART = Path(__file__).resolve().parent / "mizzen"
DOCUMENTED = "# -- "
ANNOTATED = "# @schema "
BEGIN = "<!-- values: made by helm/reference.py -->"
END = "<!-- end of values -->"
SERVE_FILE = ("apps", "http")
SHARED = {name for name, shape in BY_NAME.items() if shape["type"] in ("array", "object")}
"""Shapes that several values have: they stand in the schema once."""


@dataclass(frozen=True)
class Value:
    """One value of the chart: a leaf of `values.yaml`."""

    path: str
    default: Any
    text: str
    """What its comment says; empty if there is none."""
    annotation: Mapping[str, Any]
    """What its comment says to the schema."""


# --- reading --------------------------------------------------------------------------------------


def values(text: str) -> list[Value]:
    """Every value in the text of a `values.yaml`, in its order."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode), "values.yaml is a mapping"
    return list(_leaves(root, "", text.splitlines()))


def _leaves(node: yaml.MappingNode, prefix: str, lines: list[str]) -> Iterator[Value]:
    for key, child in node.value:
        path = f"{prefix}{key.value}"
        comment = _comment(lines, key.start_mark.line)
        documented = any(line.startswith(DOCUMENTED) for line in comment)
        # A section has values of its own, each with a comment; a documented mapping is one value.
        if isinstance(child, yaml.MappingNode) and child.value and not documented:
            yield from _leaves(child, f"{path}.", lines)
        else:
            yield Value(path, _plain(child), _prose(comment), _annotation(comment))


def _plain(node: yaml.Node) -> Any:
    return yaml.safe_load(yaml.serialize(node))


def _comment(lines: list[str], line: int) -> list[str]:
    """The comment right above a line."""
    first = line
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return [text.strip() for text in lines[first:line]]


def _prose(comment: list[str]) -> str:
    starts = [number for number, line in enumerate(comment) if line.startswith(DOCUMENTED)]
    if not starts:
        return ""
    prose = [line for line in comment[starts[-1] :] if not line.startswith(ANNOTATED)]
    return " ".join(line.removeprefix(DOCUMENTED).removeprefix("#").strip() for line in prose)


def _annotation(comment: list[str]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for line in comment:
        if line.startswith(ANNOTATED):
            merged |= yaml.safe_load(line.removeprefix(ANNOTATED))
    return merged


# --- the schema -----------------------------------------------------------------------------------


def schema(known: list[Value]) -> dict[str, Any]:
    """The closed schema of all values."""
    serve_file, definitions = _serve_file()
    root = _section()
    for value in known:
        *sections, name = value.path.split(".")
        properties = root["properties"]
        for section in sections:
            properties = properties.setdefault(section, _section())["properties"]
        properties[name] = serve_file[name] if value.path in SERVE_FILE else _shape(value)
        properties[name]["description"] = value.text
    _worker_groups(root)
    definitions |= {name: dict(BY_NAME[name]) for name in sorted(SHARED)}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the Mizzen chart",
        **root,
        "definitions": definitions,
    }


def _section() -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": {}}


def _shape(value: Value) -> dict[str, Any]:
    if value.path == GROUPS:
        return {}  # filled in when all values of a worker are known
    name = value.path.rpartition(".")[2]
    if name in SHARED and value.path not in BY_PATH and not value.annotation:
        return {"$ref": f"#/definitions/{name}"}
    found = BY_PATH.get(value.path) or BY_NAME.get(name) or _of_default(value)
    return {**copy.deepcopy(dict(found)), **value.annotation}


def _of_default(value: Value) -> dict[str, Any]:
    if isinstance(value.default, bool):
        return {"type": "boolean"}
    if isinstance(value.default, int):
        return {"type": "integer", "minimum": 0}
    if isinstance(value.default, str):
        return {"type": "string"}
    if value.annotation:
        return {"type": "object"}
    raise SystemExit(
        f"{value.path}: its default {value.default!r} does not tell what it may be; say it in"
        " helm/value_shapes.py"
    )


def _serve_file() -> tuple[dict[str, Any], dict[str, Any]]:
    """The schemas of `apps` and `http`, and the definitions that they refer to."""
    made = ServeSpec.model_json_schema(ref_template="#/definitions/{model}")
    definitions = made["$defs"]
    app = definitions["App"]["properties"]
    # Rules that stand in validators, where pydantic's schema cannot see them.
    app["route_prefix"]["pattern"] = f"^$|{PREFIX.pattern}"
    app["replicas"]["anyOf"][0]["minimum"] = 1
    del definitions["App"]["properties"]["name"]["title"]
    apps = made["properties"]["apps"]
    del apps["minItems"]
    return {"apps": apps, "http": {"$ref": "#/definitions/Http"}}, definitions


def _worker_groups(root: dict[str, Any]) -> None:
    """A group has any value of a worker, which then stands instead of the default."""

    def find(path: str) -> dict[str, Any]:
        found = root
        for part in path.split("."):
            found = found["properties"][part]
        return found

    group = copy.deepcopy(find(GROUP))
    group["properties"] = {"name": dict(GROUP_NAME), **group["properties"]}
    groups = find(GROUPS)
    groups |= {"type": "array", "minItems": 1, "items": {**group, "required": ["name"]}}


# --- the README -----------------------------------------------------------------------------------


def table(known: list[Value]) -> str:
    """The table of values, one section after the other."""
    lines = []
    section = None
    for value in known:
        first = value.path.partition(".")[0] if "." in value.path else ""
        if first != section:
            section = first
            lines += ["", f"### {first or 'General'}", "", "| value | default | |", "|---|---|---|"]
        default = json.dumps(value.default, ensure_ascii=False)
        lines.append(f"| `{value.path}` | `{_cell(default)}` | {_cell(value.text)} |")
    return "\n".join(lines[1:])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def readme(before: str, known: list[Value]) -> str:
    """The README with its table made anew; what people wrote around it stays."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    if not pattern.search(before):
        raise SystemExit(f"README.md has no place for the table: a line {BEGIN!r} and a line {END!r}")
    return pattern.sub(lambda _: f"{BEGIN}\n{table(known)}\n{END}", before)


# --- the command ----------------------------------------------------------------------------------


def made() -> dict[Path, str]:
    """What the files must be, by their paths."""
    known = values((CHART / "values.yaml").read_text())
    undocumented = [value.path for value in known if not value.text]
    if undocumented:
        raise SystemExit(f"values.yaml: no comment with `# --` above {', '.join(undocumented)}")
    return {
        CHART / "values.schema.json": json.dumps(schema(known), indent=2, ensure_ascii=False) + "\n",
        CHART / "README.md": readme((CHART / "README.md").read_text(), known),
    }


def main() -> None:
    """Write the files, or compare them."""
    files = made()
    if sys.argv[1:] == ["--check"]:
        stale = [str(path) for path, text in files.items() if not path.exists() or path.read_text() != text]
        if stale:
            raise SystemExit(f"not up to date: {', '.join(stale)}. Run `python helm/reference.py`.")
        return
    for path, text in files.items():
        path.write_text(text)


if __name__ == "__main__":
    main()

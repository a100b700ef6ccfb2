"""Who may know whom: the arrows of the design, read from the imports of every module.

    cli → cluster → training | serving → store → errors, settings, metrics, files, datasets

Workloads plug in through `workloads/contract.py` alone, and no layer of the platform names one. What is
allowed stands at the top; a new module that fits nowhere must be added there, on purpose.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ROOT = REPOSITORY / "platform" / "mizzen"

# --- what is allowed ------------------------------------------------------------------------------

BASE = {
    *(
        "errors",
        "settings",
        "series",
        "labels",
        "metrics",
        "recording",
        "resources",
        "totals",
        "files",
        "datasets",
    ),
    *("workloads",),
    *("tracing", "logs", "log_files", "log_lines"),
}
"""At the bottom: every layer above may import these (of `workloads`, the contract and the registry)."""

LAYERS: dict[str, set[str]] = {
    "errors": set(),
    "settings": set(),
    "series": set(),
    "labels": {"series"},
    "metrics": {"series", "labels"},
    "liveness": set(),
    "exemplars": {"settings", "series"},
    "recording": {"settings", "series", "metrics", "liveness", "exemplars"},
    "resources": {"metrics", "recording"},
    "gathering": {"series", "liveness"},
    "totals": {"settings", "series", "metrics", "liveness", "exemplars", "gathering"},
    "exporter": {"errors", "totals", "liveness"},
    "targets": {"errors", "exporter"},
    "tracing": {"settings", "otlp"},
    "otlp": {"tracing"},  # the two are one thing: what needs OpenTelemetry is imported when tracing is on
    "logs": {"settings", "tracing", "log_files"},
    "log_files": set(),
    "log_lines": set(),
    "files": {"errors"},
    "datasets": {"errors", "settings", "workloads"},
    "store": BASE,
    "local_ray": BASE,
    "training": BASE | {"store", "local_ray"},
    "serving": BASE | {"store", "local_ray"},
    "cluster": BASE | {"store", "training", "serving"},
    "client": {"errors"},
    "cli": BASE | {"exporter", "targets", "store", "local_ray", "training", "serving", "cluster"},
}
"""Each layer, with what it may import besides itself. `workloads` has rules of its own, below."""

WORKLOAD_MAY_IMPORT = {
    *("workloads.contract", "errors", "settings", "series", "labels", "metrics", "tracing"),
}
"""What a concrete workload may import of Mizzen, besides itself."""

CONTRACT_MAY_IMPORT = {"workloads", "errors", "settings", "series", "metrics"}
"""What the contract and the registry may import."""

LIBRARIES: dict[str, tuple[str, ...]] = {
    "ray": (
        "training/launch.py",
        "training/mailbox.py",
        "training/pulse.py",
        "training/ray_policy.py",
        "training/ray_scaling.py",
        "training/worker.py",
        "training/tables.py",
        "serving/",
        "local_ray.py",
        "cluster/entry.py",
        "cluster/ray_jobs.py",
    ),
    "deepspeed": (
        "training/engine.py",
        "training/on_nvme.py",
        "training/operators.py",
        "training/snapshot.py",
        "training/sharded.py",
        "training/universal.py",
        "training/tensor_parallel.py",
    ),
    "opentelemetry": ("otlp.py", "client/sending.py"),
    "kubernetes": ("cluster/",),
    "kubernetes_asyncio": ("cluster/",),
    "pickle": (),
    "cloudpickle": (),
    "dill": (),
    "shelve": (),
    "marshal": (),
    "joblib": (),
}
"""Libraries with the only places that may import them, at the top of a module or inside a function."""

WORKLOAD_LIBRARIES = {"ray": "inside functions only: Ray belongs to the platform, which hands it tables"}
"""Libraries that a workload may not import at the top of a module."""

READS_ENVIRONMENT = ("settings.py", "local_ray.py")
"""Who may look into `os.environ`; setting variables for child processes is free."""

UNPICKLES = (
    "training/engine.py",
    "training/on_nvme.py",
    "training/universal.py",
    "training/tensor_parallel.py",
)
"""Who may call `torch.load` without `weights_only=True`: DeepSpeed's own files of the same run."""

VERBS_OF_A_WORKLOAD = ("cli/knowledge.py",)
"""Verbs that are for one workload and say so: documents on a command line are no job file."""

NAMES_ALL_SERIES = ("metrics.py",)
"""One page declares every series, those of the workloads too."""

WORKLOAD_NAMES = {
    path.name for path in (ROOT / "workloads").iterdir() if path.is_dir() and path.name != "__pycache__"
}

PLUG_IN_NAMES = {"digits", "mizzen_digits", "mizzen-digits"}
"""The workload of tests/plugin; `digits` alone is also an English word, so only a whole text counts."""

MAX_LINES = 400
TABLES = {"metrics.py": 700}
"""Declarations, one after the other, may be more."""


# --- how a module is read -------------------------------------------------------------------------


@dataclass(frozen=True)
class Import:
    module: str
    """Absolute, for instance `mizzen.store.store` or `ray.train`."""
    line: int
    at_top: bool
    """Not inside a function: done when the module is imported."""
    only_types: bool
    """Under `if TYPE_CHECKING:`."""


def imports_of(tree: ast.Module, package: str = "mizzen") -> list[Import]:
    """All imports in `tree`, also those inside functions; `package` resolves relative ones."""
    found: list[Import] = []

    def visit(node: ast.AST, at_top: bool, only_types: bool) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.append(Import(alias.name, node.lineno, at_top, only_types))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:  # `from mizzen import store` imports mizzen.store
                found.append(Import(f"{base}.{alias.name}", node.lineno, at_top, only_types))
        elif isinstance(node, ast.Call) and _name(node.func).endswith("import_module"):
            for named in node.args[:1]:
                if isinstance(named, ast.Constant):
                    found.append(Import(str(named.value), node.lineno, at_top, only_types))
        for child in ast.iter_child_nodes(node):
            inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            checking = isinstance(node, ast.If) and _name(node.test).endswith("TYPE_CHECKING")
            types = only_types or (checking and child in node.body)  # type: ignore[attr-defined]
            visit(child, at_top and not inside, types)

    visit(tree, True, False)
    return found


def _name(node: ast.AST) -> str:
    """`a.b.c` of an attribute chain, or an empty text."""
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def texts_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every literal text but docstrings (and texts that only document an attribute)."""
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node.lineno, node.value


def environment_reads(tree: ast.Module) -> list[int]:
    """Lines that look into `os.environ`.

    Setting a variable is no look into it, nor is handing all on to a child: `{**os.environ, "A": "b"}`.
    """
    parents = {id(child): node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            lines += [node.lineno for alias in node.names if alias.name in ("environ", "getenv")]
        elif isinstance(node, ast.Attribute) and _name(node) in ("os.getenv", "os.environb"):
            lines.append(node.lineno)
        elif isinstance(node, ast.Attribute) and _name(node) == "os.environ":
            above = parents[id(node)]
            sets = isinstance(above, ast.Subscript) and isinstance(above.ctx, (ast.Store, ast.Del))
            sets |= isinstance(above, ast.Attribute) and above.attr in ("setdefault", "update", "pop")
            if not sets and not isinstance(above, ast.Dict):
                lines.append(node.lineno)
    return lines


def unsafe_loads(tree: ast.Module) -> list[int]:
    """Lines that may read a pickle: `torch.load` without `weights_only=True`, `allow_pickle=True`."""
    lines = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        literal = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        loads = _name(node.func) == "torch.load" and literal.get("weights_only") is not True
        if loads or ("allow_pickle" in literal and literal["allow_pickle"] is not False):
            lines.append(node.lineno)
    return lines


# --- the rules ------------------------------------------------------------------------------------


def wrong_imports(path: str, imports: list[Import]) -> list[str]:
    """What is wrong with the imports of the module at `path`, relative to the package's folder."""
    parts = path.removesuffix(".py").removesuffix("/__init__").split("/")
    wrong = []
    for one in imports:
        if one.module.split(".")[0] == "mizzen":
            reason = _wrong_inside(parts, one.module.split(".")[1:])
        else:
            reason = _wrong_library(path, parts, one)
        if reason:
            wrong.append(f"{path}:{one.line} imports {one.module}: {reason}")
    return wrong


def _wrong_inside(parts: list[str], target: list[str]) -> str | None:
    if not target or parts == ["__init__"]:
        return None
    if parts[0] == "workloads":
        if len(parts) > 1 and parts[1] in WORKLOAD_NAMES:
            own = target[:2] == parts[:2]
            allowed = own or any(f"{'.'.join(target)}.".startswith(f"{a}.") for a in WORKLOAD_MAY_IMPORT)
            return None if allowed else "a workload knows the contract, errors, settings and metrics alone"
        names_one = len(target) > 1 and target[1] in WORKLOAD_NAMES
        allowed = target[0] in CONTRACT_MAY_IMPORT and not names_one
        return None if allowed else "the contract knows no layer and no workload"
    if target[0] == "workloads" and len(target) > 1 and target[1] not in ("contract", "registry"):
        return "the platform never names a workload"
    if parts[0] not in LAYERS:
        return f"{parts[0]} has no place yet in LAYERS of tests/unit/test_arrows.py"
    if target[0] != parts[0] and target[0] not in LAYERS[parts[0]]:
        return f"{parts[0]} may import {', '.join(sorted(LAYERS[parts[0]])) or 'nothing of Mizzen'}"
    return None


def _wrong_library(path: str, parts: list[str], one: Import) -> str | None:
    library = one.module.split(".")[0]
    if one.only_types:
        return None
    in_workload = parts[0] == "workloads" and len(parts) > 1 and parts[1] in WORKLOAD_NAMES
    if in_workload and library in WORKLOAD_LIBRARIES:
        return WORKLOAD_LIBRARIES[library] if one.at_top else None
    places = LIBRARIES.get(library)
    if places is None or any(path == p or (p.endswith("/") and path.startswith(p)) for p in places):
        return None
    return f"only in {', '.join(places)}" if places else "never"


def names_workload(text: str) -> bool:
    """Whether a literal text names a concrete workload."""
    words = re.findall(r"[a-z]+", text.lower())
    return text in PLUG_IN_NAMES or not WORKLOAD_NAMES.isdisjoint(words)


MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
PLATFORM = [path for path in MODULES if not path.startswith(("workloads/", "client/"))]
"""The client is none of it: it knows routes, as everybody does who writes against the HTTP interface."""


@cache
def parse(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=path)


@pytest.mark.parametrize("path", MODULES)
def test_a_module_imports_only_what_lies_below_it(path: str) -> None:
    package = ".".join(["mizzen", *path.split("/")[:-1]])
    assert wrong_imports(path, imports_of(parse(path), package)) == []


@pytest.mark.parametrize("path", PLATFORM)
def test_the_platform_names_no_workload(path: str) -> None:
    if path in VERBS_OF_A_WORKLOAD + NAMES_ALL_SERIES:
        return
    assert [f"{path}:{line} {text!r}" for line, text in texts_of(parse(path)) if names_workload(text)] == []


@pytest.mark.parametrize("path", MODULES)
def test_the_environment_is_read_in_one_place(path: str) -> None:
    if path not in READS_ENVIRONMENT:
        assert environment_reads(parse(path)) == []


@pytest.mark.parametrize("path", MODULES)
def test_nothing_is_unpickled(path: str) -> None:
    if path not in UNPICKLES:
        assert unsafe_loads(parse(path)) == []


@pytest.mark.parametrize("path", MODULES)
def test_a_module_says_what_it_does_and_is_short(path: str) -> None:
    assert ast.get_docstring(parse(path)), f"{path} has no docstring"
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= TABLES.get(path, MAX_LINES)


def test_the_source_root_is_no_package_that_would_shadow_pythons_platform() -> None:
    assert not (REPOSITORY / "platform" / "__init__.py").exists()


def test_the_plug_in_imports_the_contract_errors_and_what_declares_series_alone() -> None:
    sources = sorted((REPOSITORY / "tests" / "plugin" / "mizzen_digits").rglob("*.py"))
    assert sources
    for source in sources:
        for one in imports_of(ast.parse(source.read_text(encoding="utf-8")), "mizzen_digits"):
            if one.module.split(".")[0] == "mizzen":
                allowed = ("workloads.contract.", "errors.", "series.", "labels.")
                assert one.module.removeprefix("mizzen.").startswith(allowed), one


# --- the rules see what they are for --------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("store/store.py", "from mizzen.training import job"),
        ("store/store.py", "def f():\n    import mizzen.serving.app"),
        ("store/deep/x.py", "from ...serving import app"),
        ("training/loop.py", "from mizzen.serving.spec import ServeSpec"),
        ("serving/app.py", "if TYPE_CHECKING:\n    from mizzen.training.job import TrainJob"),
        ("serving/app.py", "from mizzen.workloads.chat import workload"),
        ("cli/train.py", "import mizzen.workloads.chat.model"),
        ("cli/train.py", "import importlib\nimportlib.import_module('mizzen.workloads.chat')"),
        ("errors.py", "from mizzen import files"),
        ("brand_new.py", "from mizzen import errors"),
        ("workloads/chat/data.py", "from mizzen.store.store import Store"),
        ("workloads/chat/data.py", "from mizzen.workloads.registry import get"),
        ("workloads/chat/data.py", "from ..forecasting import data"),
        ("workloads/chat/data.py", "import ray.data"),
        ("workloads/contract.py", "from mizzen.training.job import TrainJob"),
        ("workloads/registry.py", "from mizzen.workloads.chat import workload"),
        ("training/loop.py", "import deepspeed"),
        ("training/loop.py", "def f():\n    from ray import train"),
        ("store/store.py", "import pickle"),
        ("serving/app.py", "import kubernetes.client"),
    ],
)
def test_a_wrong_import_is_seen(path: str, source: str) -> None:
    package = ".".join(["mizzen", *path.split("/")[:-1]])
    assert wrong_imports(path, imports_of(ast.parse(source), package))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("cli/train.py", "def f():\n    from mizzen.training.pipeline import run"),
        (
            "store/store.py",
            "from . import manifest\nfrom .manifest import Manifest\nfrom mizzen import errors",
        ),
        ("training/launch.py", "import ray.train"),
        ("serving/deep/app.py", "from ray import serve"),
        ("training/loop.py", "if TYPE_CHECKING:\n    import deepspeed"),
        ("workloads/chat/data.py", "from .model import Chat\nfrom mizzen.workloads.contract import Workload"),
        ("workloads/chat/data.py", "def f():\n    import ray"),
        ("workloads/registry.py", "from mizzen.workloads.contract import Workload"),
    ],
)
def test_a_right_import_is_let_through(path: str, source: str) -> None:
    package = ".".join(["mizzen", *path.split("/")[:-1]])
    assert wrong_imports(path, imports_of(ast.parse(source), package)) == []


@pytest.mark.parametrize(
    ("source", "reads"),
    [
        ("import os\nos.environ['A']", 1),
        ("import os\nos.environ.get('A')", 1),
        ("import os\nx = dict(os.environ)", 1),
        ("import os\nos.getenv('A')", 1),
        ("from os import environ\nenviron['A']", 1),
        ("import os\nif 'A' in os.environ: pass", 1),
        ("import os\nrun(env={**os.environ, 'A': 'b'})", 0),
        ("def answer(environ): return environ['PATH_INFO']", 0),
        ("import os\nos.environ['A'] = 'b'\nos.environ.setdefault('A', 'b')\ndel os.environ['A']", 0),
    ],
)
def test_a_look_into_the_environment_is_seen_and_a_write_is_not(source: str, reads: int) -> None:
    assert len(environment_reads(ast.parse(source))) == reads


@pytest.mark.parametrize(
    ("source", "loads"),
    [
        ("torch.load(f)", 1),
        ("torch.load(f, weights_only=False)", 1),
        ("np.load(f, allow_pickle=True)", 1),
        ("torch.load(f, weights_only=True)", 0),
        ("np.load(f, allow_pickle=False)", 0),
    ],
)
def test_an_unsafe_load_is_seen(source: str, loads: int) -> None:
    assert len(unsafe_loads(ast.parse(source))) == loads


@pytest.mark.parametrize(
    "text", ["chat", "/v1/chat", "Forecasting models", "recommendation_latency", "digits"]
)
def test_a_text_that_names_a_workload_is_seen(text: str) -> None:
    assert names_workload(text)


@pytest.mark.parametrize("text", ["letters, digits and dashes", "chatter", "recommended"])
def test_a_text_that_only_sounds_like_one_is_let_through(text: str) -> None:
    assert not names_workload(text)


def test_docstrings_may_speak_of_a_workload_and_other_texts_are_seen() -> None:
    tree = ast.parse('"""About chat."""\nx: int = 1\n"""Not for chat."""\ny = f"{x} chat"\n')
    assert [text for _, text in texts_of(tree)] == [" chat"]

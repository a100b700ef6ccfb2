"""`mizzen plan` as it is typed: a folder with a config.json and no weights is enough."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig
from typer.testing import CliRunner

from mizzen.cli import app
from mizzen.errors import InputError, JobError

RUN = CliRunner()


@pytest.fixture(scope="module")
def job_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    shape = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    LlamaConfig(**shape, num_attention_heads=2, tie_word_embeddings=False).save_pretrained(folder / "base")
    file = folder / "job.yaml"
    content = {
        "name": "planned",
        "workload": "chat",
        "data": {"dataset": "chatterbot-corpus"},
        "model": {"base": str(folder / "base"), "max_length": 16},
        "training": {"steps": 1, "micro_batch_size": 2},
        "scaling": {"workers": 2},
    }
    file.write_text(json.dumps(content))
    return file


def num_parameters() -> int:
    attention, feed_forward, norms = 4 * 32 * 32, 3 * 32 * 64, 2 * 32
    return 2 * 100 * 32 + 2 * (attention + feed_forward + norms) + 32


def test_a_folder_without_weights_is_planned_for_cpus(job_file: Path) -> None:
    said = RUN.invoke(app, ["plan", str(job_file)])
    assert said.exit_code == 0, said.output
    assert f"{num_parameters():,} parameters are trained" in said.stdout
    assert "* 1" in said.stdout
    assert "this machine, which has" in said.stdout


def test_programs_get_bytes_and_the_fewest_gpus(job_file: Path) -> None:
    said = RUN.invoke(app, ["plan", str(job_file), "--gpu", "l4-24gb", "--json"])
    content = json.loads(said.stdout)
    assert content["parameters"] == {"total": num_parameters(), "trainable": num_parameters(), "frozen": 0}
    assert content["micro_batch"]["tokens"] == 32
    assert {one["smallest_number_of_gpus"] for one in content["choices"]} == {1}
    assert {one["fits"] for one in content["choices"]} == {True}


def test_adapters_leave_the_base_frozen(job_file: Path) -> None:
    said = RUN.invoke(app, ["plan", str(job_file), "--json", "--set", "model.method=lora"])
    parameters = json.loads(said.stdout)["parameters"]
    assert parameters["frozen"] == num_parameters()
    # Rank 8 beside each of the seven linear layers of a block: attention's four, and three of the other part.
    assert parameters["trainable"] == 2 * 8 * (4 * (32 + 32) + 3 * (32 + 64))


def test_all_gpus_are_listed() -> None:
    said = RUN.invoke(app, ["plan", "--gpu", "list", "--json"])
    assert {"h100-80gb", "a100-40gb", "t4-16gb"} <= json.loads(said.stdout).keys()
    assert "h100-80gb" in RUN.invoke(app, ["plan", "--gpu", "list"]).stdout


def test_an_unknown_gpu_and_a_job_that_cannot_be_are_refused_before_anything_is_measured(
    job_file: Path,
) -> None:
    assert isinstance(RUN.invoke(app, ["plan", str(job_file), "--gpu", "h1000"]).exception, InputError)
    refused = RUN.invoke(app, ["plan", str(job_file), "--set", "deepspeed.zero_stage=0", *OFFLOADED])
    assert isinstance(refused.exception, JobError)


OFFLOADED = ["--set", "deepspeed.offload=optimizer"]


def test_no_job_file_is_wrong_input() -> None:
    assert RUN.invoke(app, ["plan"]).exit_code == 2

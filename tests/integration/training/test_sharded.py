"""Two ranks share a language model that comes in several files, at each ZeRO stage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch

from mizzen.training import job as jobs
from mizzen.training import sharded

HERE = Path(__file__).parent
CHAT = HERE.parents[1] / "unit" / "workloads" / "chat" / "conftest.py"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama of the chat tests in several files."""
    from transformers import AutoModelForCausalLM

    spec = spec_from_file_location("chat_unit_conftest", CHAT)
    assert spec is not None and spec.loader is not None
    chat = module_from_spec(spec)
    spec.loader.exec_module(chat)
    folder: Path = chat.make_tiny_base(tmp_path_factory.mktemp("base"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    return folder


@pytest.fixture(scope="module")
def ran(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder in which two ranks ran, and what each saw."""
    folder = tmp_path_factory.mktemp("ranks")
    script, environ = HERE / "sharing_rank.py", {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(folder), str(base)], env=environ, stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=600)[1].decode()[-2000:] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_each_stage_begins_with_the_loss_of_plain_transformers(base: Path, ran: Any) -> None:
    from transformers import AutoModelForCausalLM

    _, said = ran
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    ids = [torch.tensor(one["ids"]) for one in said]
    with torch.no_grad():
        expected = sum(model(input_ids=x, labels=x).loss.item() for x in ids) / 2
    for stage in range(4):
        assert said[0][f"full {stage}"][0] == pytest.approx(expected, rel=1e-5), stage
        assert said[0][f"full {stage}"] == pytest.approx(said[0]["full 0"], rel=1e-5), stage
    assert said[0]["full 3"][1] < said[0]["full 3"][0]


def test_a_model_that_begins_at_random_is_the_same_at_every_stage(ran: Any) -> None:
    _, said = ran
    assert said[0]["random 3"] == pytest.approx(said[0]["random 0"], rel=1e-6)


def test_no_rank_ever_holds_the_whole(base: Path, ran: Any) -> None:
    from safetensors.torch import load_file

    _, said = ran
    sizes = [t.nbytes for file in base.glob("*.safetensors") for t in load_file(file).values()]
    for most, whole in (one["held"] for one in said):
        assert whole == sum(sizes)
        assert most <= whole / 2 + max(sizes) + 8 * len(sizes)  # its half, and one parameter


def test_adapters_under_zero_3_go_on_where_they_stood_and_are_merged(base: Path, ran: Any) -> None:
    folder, said = ran
    assert said[0]["resumed"] == said[0]["went on"]
    content = {
        "name": "shared",
        "workload": "chat",
        "data": {"path": "nothing.jsonl"},
        "model": {"base": str(base), "method": "lora", "lora": {"rank": 4}},
        "training": {"steps": 2},
    }
    job = jobs.parse(content, "the test's job")
    found = sharded.engine.consolidate(folder / "saved")
    assert found and all("lora_" in name for name in found)  # the base is not in the checkpoint
    prepared: Any = None
    adapted: Any = sharded.trained(job, prepared, folder / "saved").eval()
    ids = torch.tensor(said[0]["ids"])
    with torch.no_grad():
        expected = adapted(input_ids=ids).logits
        with adapted.disable_adapter():
            untrained = adapted(input_ids=ids).logits
        merged: Any = job.implementation.finish_model(adapted)
        assert torch.allclose(merged(input_ids=ids).logits, expected, atol=1e-4)
    assert not torch.allclose(expected, untrained, atol=1e-4)
    shutil.rmtree(folder / "saved")

"""One of two ranks that share a language model, for `test_sharded`: `sharing_rank.py RANK FOLDER BASE`.

It writes what it saw as JSON into FOLDER.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from mizzen.training import engine, sharded
from mizzen.training import job as jobs
from mizzen.training.job import TrainJob

WORLD_SIZE = 2


def job_of(base: str, stage: int, **model: Any) -> TrainJob:
    content = {
        "name": "shared",
        "workload": "chat",
        "data": {"path": "nothing.jsonl"},
        "model": {"base": base, **model},
        "training": {"steps": 2, "micro_batch_size": 2, "learning_rate": 1e-3},
        "deepspeed": {"zero_stage": stage},
        "scaling": {"workers": WORLD_SIZE},
    }
    return jobs.parse(content, "the test's job")


def begun(job: TrainJob) -> Any:
    torch.manual_seed(job.training.seed)
    return engine.start(sharded.built(job, None), job, lambda step: 1.0, WORLD_SIZE)  # type: ignore[arg-type]


def one_step(job: TrainJob, trained: Any, batch: dict[str, torch.Tensor]) -> float:
    loss = job.implementation.loss(trained, batch)
    mean = loss.detach().clone()
    torch.distributed.all_reduce(mean)
    trained.backward(loss)
    engine.step(trained)
    return mean.item() / WORLD_SIZE


def held_while_building(job: TrainJob) -> tuple[int, int]:
    """Most bytes of parameters that this rank held at once, and bytes of the whole model."""
    torch.manual_seed(job.training.seed)
    skeleton: Any = job.implementation.skeleton(job.model, None, dropout=0.0)  # type: ignore[arg-type]
    first, spread = sharded._partitioning(job, skeleton.model)
    seen: list[torch.nn.Parameter] = []
    most = whole = 0

    def held() -> int:
        return sum(p.data.nbytes + (p.ds_tensor.nbytes if hasattr(p, "ds_tensor") else 0) for p in seen)

    def placed(parameter: torch.nn.Parameter) -> None:
        nonlocal most, whole
        seen.append(parameter)
        whole += parameter.data.nbytes
        most = max(most, held())
        spread(parameter)

    skeleton.filled(dtype=torch.float32, reads=first, placed=placed)
    return max(most, held()), whole


def main() -> None:
    rank, folder, base = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ["DS_ACCELERATOR"] = "cpu"
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=WORLD_SIZE)
    torch.manual_seed(5 + rank)
    ids = torch.randint(3, 280, (2, 12))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    said: dict[str, Any] = {"ids": ids.tolist()}
    for stage in range(4):
        job = job_of(base, stage)
        trained = begun(job)
        said[f"full {stage}"] = [one_step(job, trained, batch) for _ in range(2)]
    for stage in (0, 3):
        job = job_of(base, stage, init="random")
        said[f"random {stage}"] = one_step(job, begun(job), batch)
    said["held"] = held_while_building(job_of(base, 3))
    adapted = job_of(base, 3, method="lora", lora={"rank": 4})
    trained = begun(adapted)
    one_step(adapted, trained, batch)
    assert trained.leaves_out_frozen
    trained.save_checkpoint(str(folder / "saved"), tag=engine.TAG, exclude_frozen_parameters=True)
    torch.distributed.barrier()
    said["went on"] = one_step(adapted, trained, batch)
    again = begun(adapted)
    engine.load(again, folder / "saved")
    said["resumed"] = one_step(adapted, again, batch)
    (folder / f"{rank}.json").write_text(json.dumps(said))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

"""One rank that trains each of several jobs for some steps, and says what it saw: a script.

    python steps_of_a_worker.py RANK WORKERS MEETING_FILE JOBS.json OUT.json

It writes for each job the peak of its memory in bytes, the loss of each micro-batch, and how many values of
parameters lie on a disk. Memory is the process's resident memory (the kernel's own high-water mark, which `5`
in `clear_refs` sets back), above what it was just before the model was built. It wants a malloc that gives
back what is freed: else a block that DeepSpeed has let go would count as held.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

STEPS = 2
"""In the second AdamW has its moments and stage 3 knows in which order layers are used."""


def resident_bytes(key: str) -> int:
    """`VmRSS`: now; `VmHWM`: the most since it was set back."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(key)


def seen(content: dict, rank: int, workers: int) -> dict:
    """Train the job for `STEPS` steps of its largest micro-batch, the same each time."""
    from types import SimpleNamespace

    import torch.distributed

    from mizzen.training import engine as deepspeed_engine
    from mizzen.training import job as jobs
    from mizzen.training import sharded, sketch

    job = jobs.parse(content, "the test's job")
    torch.manual_seed(0)
    batch = sketch.outline(job).batch
    gc.collect()
    torch.distributed.barrier()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes("VmRSS")
    torch.manual_seed(0)
    model = sharded.built(job, SimpleNamespace())
    engine = deepspeed_engine.start(model, job, lambda step: 1.0, workers)
    engine.train()
    losses = []
    for _ in range(STEPS * job.training.gradient_accumulation_steps):
        loss = job.implementation.loss(engine, batch)
        engine.backward(loss)
        losses.append(loss.item())
        del loss
        deepspeed_engine.step(engine)
    peak = resident_bytes("VmHWM") - before
    places = ((getattr(each, "ds_tensor", None), each) for each in model.parameters())
    on_disk = [each for place, each in places if getattr(place, "final_location", None) == "nvme"]
    values = sum(each.ds_numel for each in on_disk)
    engine.destroy()
    return {"peak_bytes": peak, "losses": losses, "values_on_disk": values}


def main() -> None:
    """Join the other ranks, train, write what was found."""
    rank, workers, meeting, jobs_file, out = sys.argv[1:]
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=workers, LOCAL_WORLD_SIZE=workers)
    import torch
    import torch._dynamo  # DeepSpeed imports it when it first steps
    import torch.distributed

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=int(workers)
    )
    content = json.loads(Path(jobs_file).read_text())
    for job in content["warm_up"]:  # what is imported on the way is no job's
        seen(job, int(rank), int(workers))
    found: dict[str, dict] = {}
    for name, job in content["jobs"].items():
        found[name] = seen(job, int(rank), int(workers))
        Path(out).write_text(json.dumps(found))  # so that whoever waits too long knows how far it came
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

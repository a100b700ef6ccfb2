"""The norm of a step's gradients, by DeepSpeed with all that it does about them, and by PyTorch alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

STEP = """
import json, os, sys
os.environ["DS_ACCELERATOR"] = "cpu"
import torch
from mizzen.training import engine as deepspeed_engine
from mizzen.training.job import parse

def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))

def norms(stage):
    training = {"steps": 9, "gradient_accumulation_steps": 2, "gradient_clipping": 0.1}
    job = parse({"name": "digits", "workload": "digits", "training": training,
                 "deepspeed": {"zero_stage": stage}}, "the test's job")
    engine, found = deepspeed_engine.start(model(), job, lambda step: 1.0, 1), []
    for x_BI in batches_2BI:
        engine.backward((engine(x_BI) ** 2).mean())
        norm = deepspeed_engine.step(engine)
        found.append(None if norm is None else float(norm))
    return found

torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
batches_2BI = torch.randn(2, 4, 8)
plain = model()
for x_BI in batches_2BI:
    ((plain(x_BI) ** 2).mean() / 2).backward()
expected = torch.nn.utils.get_total_norm([parameter.grad for parameter in plain.parameters()])
print(json.dumps([float(expected), *map(norms, (0, 1, 2))]))
torch.distributed.destroy_process_group()
"""


def test_the_gradient_norm_is_that_of_all_micro_batches_before_clipping_at_each_stage(tmp_path: Path) -> None:
    environ = {**os.environ, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", STEP, str(tmp_path / "meeting")]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    expected, *found = json.loads(ran.stdout.splitlines()[-1])
    assert expected > 0.1  # else nothing is clipped
    for norms in found:
        assert norms[0] is None  # the step goes on
        assert abs(norms[1] - expected) < 1e-4 * expected

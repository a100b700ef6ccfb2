"""Steps that are not finite, by DeepSpeed at each ZeRO stage: what `faults.on_nan` promises of them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long
CASES = ("bad batch", "bad loss alone", "bad gradient alone")

STEP = """
import json, os, sys, warnings
os.environ["DS_ACCELERATOR"] = "cpu"
import torch
from mizzen.training import engine as deepspeed_engine
from mizzen.training.job import parse

warnings.simplefilter("error", UserWarning)

def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))

def loss_of(engine, x_BI, kind):
    x_BI = x_BI.to(next(engine.module.parameters()).dtype)
    y_B1 = engine(x_BI * float("nan") if kind == "bad batch" else x_BI)
    loss = (y_B1 ** 2).mean()
    if kind == "bad loss alone":
        return loss + torch.tensor(float("nan"))
    if kind == "bad gradient alone":  # the square root of 0 is 0, its slope is infinite
        return loss + torch.sqrt((y_B1 * 0).abs()).sum()
    return loss

def states(engine):
    groups = [group["params"] for group in engine.optimizer.param_groups]
    found = [each for group in groups for each in group]
    found += getattr(engine.optimizer, "fp32_partitioned_groups_flat", [])  # at stage 3 the groups are empty
    found += [getattr(each, "ds_tensor", each) for each in engine.module.parameters()]
    for state in engine.basic_optimizer.state.values():
        found += [value for value in state.values() if torch.is_tensor(value)]
    return [each.detach().clone() for each in found]

def stepped(engine, kind, doubtful):
    loss = loss_of(engine, x_BI, kind)
    engine.backward(loss)
    norm = deepspeed_engine.step(engine, [loss.detach()] if doubtful else ())
    return float(norm)

def outcome(stage, precision, kind):
    training = {"steps": 9, "gradient_clipping": 0.1, "learning_rate": 0.01, "precision": precision}
    job = parse({"name": "digits", "workload": "digits", "training": training,
                 "deepspeed": {"zero_stage": stage}}, "the test's job")
    engine = deepspeed_engine.start(model(), job, lambda step: 1.0 / (1 + step), 1)
    stepped(engine, "", True)
    before, epoch = states(engine), engine.lr_scheduler.last_epoch
    norm = stepped(engine, kind, True)
    deepspeed_engine.pass_over(engine)
    after = states(engine)
    same = all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    moved = engine.lr_scheduler.last_epoch - epoch
    norm_after = stepped(engine, "", True)
    changed = any(not torch.equal(one, other) for one, other in zip(after, states(engine), strict=True))
    return {"norm": repr(norm), "same": same, "moved": moved, "norm_after": norm_after, "changed": changed}

torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
x_BI = torch.randn(4, 8)
found = {}
for stage, precision in ((0, "fp32"), (1, "fp32"), (1, "bf16"), (2, "fp32"), (3, "fp32")):
    for kind in json.loads(sys.argv[2]):
        found[f"{stage} {precision} {kind}"] = outcome(stage, precision, kind)
print(json.dumps(found))
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By stage, precision and case."""
    environ = {**os.environ, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "OMP_NUM_THREADS": "1"}
    meeting: Path = tmp_path_factory.mktemp("steps") / "meeting"
    command = [sys.executable, "-c", STEP, str(meeting), json.dumps(CASES)]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, dict[str, Any]] = json.loads(ran.stdout.splitlines()[-1])
    assert len(found) == 5 * len(CASES)
    return found


def test_a_step_that_is_not_finite_changes_neither_weights_nor_the_optimisers_states(
    outcomes: dict[str, dict[str, Any]],
) -> None:
    assert {name: outcome["same"] for name, outcome in outcomes.items()} == dict.fromkeys(outcomes, True)


def test_its_norm_says_so(outcomes: dict[str, dict[str, Any]]) -> None:
    assert {name: outcome["norm"] in ("nan", "inf") for name, outcome in outcomes.items()} == dict.fromkeys(
        outcomes, True
    )


def test_the_learning_rate_moves_on_by_one_step(outcomes: dict[str, dict[str, Any]]) -> None:
    assert {name: outcome["moved"] for name, outcome in outcomes.items()} == dict.fromkeys(outcomes, 1)


def test_the_next_step_is_like_any_other(outcomes: dict[str, dict[str, Any]]) -> None:
    assert {name: outcome["changed"] for name, outcome in outcomes.items()} == dict.fromkeys(outcomes, True)
    assert all(0 < outcome["norm_after"] < 1e6 for outcome in outcomes.values())

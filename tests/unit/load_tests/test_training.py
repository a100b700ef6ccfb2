"""Steps and utilisation come from what the clock in the loss has seen; without a GPU nothing is claimed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import cases
import gpu_exports
import gpu_mfu
import plain_loop
import pytest
import step_time
import torch
from gpu_mfu import OURS, PLAIN, VARIANTS, NoGpu, Setting
from shapes import SHAPES
from timed_workloads import (
    FOLDER_VARIABLE,
    STEPS_VARIABLE,
    WARM_UP_STEPS,
    RandomTokens,
    TimedTokens,
    plugged_in,
    tokens,
)

from mizzen.training.flops import FlopCounter
from mizzen.training.peaks import peak_flops
from mizzen.workloads import registry


def rank(steps_ms: list[float], cpu_share: float = 0.5, warm_up: int = WARM_UP_STEPS) -> dict[str, Any]:
    """What a clock writes of a warm-up of steps of a second, and then `steps_ms`."""
    began_s = [float(step) for step in range(warm_up + 1)]
    for step_ms in steps_ms:
        began_s.append(began_s[-1] + step_ms / 1e3)
    return {
        "began_s": began_s,
        "process_cpu_s": [cpu_share * began for began in began_s],
        "machine_cpu_s": [1.5 * began for began in began_s],
        "losses": [2.0] * len(began_s),
        "peak_bytes": 2**30,
    }


def test_a_step_is_the_median_after_the_warm_up_and_others_are_what_the_workers_have_not_used() -> None:
    ranks = [rank([10, 30, 20], warm_up=step_time.WARM_UP_STEPS) for _ in range(2)]
    found = step_time.figures_of(ranks, 5.0, 0.01)
    assert found.median_ms == pytest.approx(20)
    assert found.cpu_ms == pytest.approx(10)
    assert found.other_cpu_ms == pytest.approx(10)
    assert (found.first_step_s, found.data_share) == (5.0, 0.01)


def test_trainings_whose_losses_differ_are_not_compared() -> None:
    assert step_time.compare_losses([[1.0, 2.0]], [[1.0, 2.000001]]) == pytest.approx(5e-7, rel=0.01)
    with pytest.raises(RuntimeError, match="worker 0's losses differ at step 2"):
        step_time.compare_losses([[1.0, 2.0]], [[1.0, 2.1]])
    with pytest.raises(RuntimeError, match="differ"):
        step_time.compare_losses([[float("nan")]], [[float("nan")]])
    with pytest.raises(ValueError, match="argument"):
        step_time.compare_losses([[1.0, 2.0]], [[1.0]])


def test_figures_are_medians_over_rounds_by_side() -> None:
    def one(step_ms: float, share: float | None) -> step_time.Figures:
        return step_time.figures_of([rank([step_ms] * 3, warm_up=step_time.WARM_UP_STEPS)], 1.0, share)

    rounds = [{"mizzen": one(ms, 0.01), "torchrun": one(ms + 1, None)} for ms in (10, 50, 20)]
    found = step_time.summary(rounds)
    assert found["mizzen"]["steps"]["median_ms"] == pytest.approx(20)
    assert found["torchrun"]["steps"]["median_ms"] == pytest.approx(21)
    assert found["torchrun"]["steps"]["data_share"] is None


def test_the_recommendation_case_is_the_recipe_of_the_repository() -> None:
    from mizzen.training import job as jobs

    recipe = jobs.load(Path(cases.__file__).parents[2] / "jobs" / "recommendation.yaml")
    made = cases.case("recommendation", 60, Path("nowhere")).job
    job = jobs.parse({**made, "workload": "recommendation"}, "the case")
    assert (job.model, job.data) == (recipe.model, recipe.data)
    theirs, ours = recipe.training.model_dump(), job.training.model_dump()
    own = {"epochs", "steps", "seed"}
    assert {k: v for k, v in ours.items() if k not in own} == {
        k: v for k, v in theirs.items() if k not in own
    }


def test_the_large_shape_has_about_a_billion_parameters_and_the_formula_counts_them() -> None:
    tiny = SHAPES["tiny"]
    assert sum(p.numel() for p in tiny.build().parameters()) == tiny.num_parameters
    assert 0.95e9 < SHAPES["1b"].num_parameters < 1.1e9


def test_a_steps_operations_are_what_the_platform_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv(STEPS_VARIABLE, "99")
    tiny, workload, counter = SHAPES["tiny"], TimedTokens(), FlopCounter()
    model = tiny.build().train()
    batch = workload.collate([RandomTokens(2, tiny.vocabulary, 24)[i] for i in range(2)])
    with counter.counted(batch):
        loss = workload.loss(model, batch)
        counter.backward_begins()
        loss.backward()
    assert counter.take() == pytest.approx(tiny.flops_a_step(2, 24), rel=0.01)


def test_utilisation_is_what_is_needed_over_the_mean_step_and_the_peak() -> None:
    setting, peak = (
        Setting("1b", 8, 2048, WARM_UP_STEPS + 3, "cuda"),
        peak_flops("NVIDIA H100 80GB HBM3", "bf16"),
    )
    found = gpu_mfu.figures_of(rank([200, 300]), setting, peak)
    assert peak == 989.4e12
    assert found.step_ms == pytest.approx(250)
    assert found.tokens_per_s == pytest.approx(8 * 2048 / 0.25)
    assert found.mfu == pytest.approx(SHAPES["1b"].flops_a_step(8, 2048) / 0.25 / 989.4e12)
    assert gpu_mfu.figures_of(rank([200, 300]), setting, None).mfu is None


def test_the_fastest_variant_is_held_against_the_budget_and_shown_with_its_memory() -> None:
    setting = Setting("1b", 8, 2048, WARM_UP_STEPS + 3, "cuda")
    slow, fast = (gpu_mfu.figures_of(rank([ms, ms]), setting, 1e15) for ms in (400, 200))
    results = gpu_mfu.summary([{side: {"plain": slow, "compiled": fast} for side in (OURS, PLAIN)}])
    assert results[OURS]["best"]["mfu"] == fast.mfu
    facts = {
        **dict.fromkeys(("measured_at", "num_cores", "cpu", "memory_gib", "python", "code"), "x"),
        **{"load_average_before": 0.0, "device": "H100", "setting": "1b"},
    }
    text = gpu_mfu.markdown(facts, results, [])
    assert f"| compiled | mizzen | 200.0 | 81920 | {fast.mfu:.1%} | 1.0 |" in text


def test_the_plain_loop_learns_on_a_cpu_at_a_toys_size_and_leaves_its_clock(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    setting = gpu_mfu.setting_of(argparse.Namespace(tiny=True, device="cpu"))
    for name, value in plugged_in(tmp_path / "site").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(registry, "get", lambda name: tokens)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv(STEPS_VARIABLE, str(setting.num_steps))
    given = tmp_path / "given.json"
    content = {"job": setting.job(VARIANTS[2]), "num_steps": setting.num_steps, "device": "cpu"}
    given.write_text(json.dumps(content))
    monkeypatch.setattr(sys, "argv", ["plain_loop.py", str(given)])
    plain_loop.main()
    seen = json.loads((tmp_path / "rank-0.json").read_text())
    assert len(seen["losses"]) == len(seen["began_s"]) == setting.num_steps
    found = gpu_mfu.figures_of(seen, setting, None)
    assert found.tokens_per_s == pytest.approx(setting.batch_size * setting.length / found.step_ms * 1e3)
    assert seen["peak_bytes"] > 2**20


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_each_variant_is_a_job_of_one_gpu_in_bf16(variant: gpu_mfu.Variant) -> None:
    content = Setting("1b", 8, 2048, 40, "cuda").job(variant)
    assert content["scaling"] == {"workers": 1, "gpus_per_worker": 1}
    assert content["training"]["precision"] == "bf16"
    assert content["training"]["compile"] == variant.compile
    assert content["training"]["activation_checkpointing"] == variant.checkpointing


@pytest.mark.parametrize(
    "arguments",
    [["--device", "cpu"], ["--steps", str(WARM_UP_STEPS)], ["--rounds", "0"], ["--variants", "fast"]],
)
def test_arguments_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        gpu_mfu.parsed(arguments)


def test_a_toy_is_tiny_on_any_device() -> None:
    setting = gpu_mfu.setting_of(argparse.Namespace(tiny=True, device="cpu", batch=8, length=2048, steps=40))
    assert (setting.shape, setting.device) == ("tiny", "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_both_scripts_refuse_and_say_what_to_do() -> None:
    with pytest.raises(NoGpu, match="--device cpu --tiny"):
        gpu_mfu.device_peak("cuda")
    with pytest.raises(gpu_exports.NoGpu, match="--device cpu"):
        gpu_exports.demand("cuda")
    gpu_exports.demand("cpu")
    assert gpu_mfu.device_peak("cpu") == ("CPU", None)


def test_a_gpu_whose_peak_is_unknown_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GeForce 256")
    with pytest.raises(NoGpu, match="GeForce 256 in bf16 is not known"):
        gpu_mfu.device_peak("cuda")


def test_a_refused_export_shows_in_the_table() -> None:
    facts = {
        **dict.fromkeys(("measured_at", "num_cores", "cpu", "memory_gib", "python", "code"), "x"),
        "load_average_before": 0.0,
    }
    one = gpu_exports.Checked("m@1", "fp32", "CUDAExecutionProvider", False, 0.5, 1e-4, None, "p", 1.0, 2.0)
    assert "| 0.5 | 0.0001 | – | p | 1 | 2 | **refused** |" in gpu_exports.markdown(facts, [one])

"""Training runs: how they learn, where their time goes, what they use."""

from __future__ import annotations

from board import Board, Panel, Query, Row, counted, mean, quantiles, rate

_BY = "train_job, run"
_NAME = "{{run}}"


def _gauge(series: str, legend: str = _NAME, by: str = _BY) -> Query:
    return Query(f"max by ({by}) ({series}{{@RUN}})", legend)


_LEARNING = (
    Panel(
        "Loss",
        "none",
        "Training loss of the last step.",
        (_gauge("mizzen_training_loss"),),
        least=None,
        runbook="MizzenLossNotFinite",
    ),
    Panel(
        "Validation",
        "none",
        "Metrics of the last validation.",
        (_gauge("mizzen_training_validation", "{{run}} {{metric}}", f"{_BY}, metric"),),
        least=None,
    ),
    Panel("Learning rate", "none", "Of the last step.", (_gauge("mizzen_training_learning_rate"),)),
    Panel(
        "Gradient norm",
        "none",
        "Of the last step, before clipping.",
        (_gauge("mizzen_training_gradient_norm"),),
    ),
    Panel(
        "Done",
        "percentunit",
        "Steps done of those that are planned.",
        (
            Query(
                f"max by ({_BY}) (mizzen_training_step{{@RUN}})"
                f" / (max by ({_BY}) (mizzen_training_planned_steps{{@RUN}}) > 0)",
                _NAME,
            ),
        ),
        kind="bars",
        width=8,
        most=1.0,
    ),
    Panel(
        "Last activity",
        "s",
        "How long ago a worker finished a step, an evaluation or a checkpoint.",
        (Query(f"time() - max by ({_BY}) (mizzen_training_last_activity_timestamp_seconds{{@RUN}})", _NAME),),
        runbook="MizzenTrainingStandsStill",
    ),
)

_TIME = (
    Panel(
        "Duration of a step",
        "s",
        "One optimiser step, its data included.",
        quantiles("mizzen_training_step_duration_seconds", "@RUN", _BY, _NAME),
    ),
    Panel(
        "Where steps spend their time",
        "percentunit",
        "Seconds a second, the mean of all workers.",
        (
            Query(
                "avg by (train_job, run, phase)"
                " (rate(mizzen_training_phase_seconds_total{@RUN}[$__rate_interval]))",
                "{{run}} {{phase}}",
            ),
        ),
        kind="stacked",
    ),
    Panel(
        "Own work of each worker",
        "percentunit",
        "Data and forward pass, seconds a second. A worker far above the others holds them all up.",
        (
            Query(
                rate("mizzen_training_phase_seconds_total", '@RUN,phase=~"data|forward"', f"{_BY}, rank"),
                "{{run}} worker {{rank}}",
            ),
        ),
        runbook="MizzenTrainingWorkerSlow",
    ),
    Panel(
        "Throughput",
        "short",
        "Samples and tokens a second, over all workers.",
        (
            Query(rate("mizzen_training_samples_total", "@RUN", _BY), "{{run}} samples"),
            Query(rate("mizzen_training_tokens_total", "@RUN", _BY), "{{run}} tokens"),
        ),
    ),
    Panel(
        "Steps",
        "ops",
        "Optimiser steps a second.",
        (Query(rate("mizzen_training_steps_total", "@RUN", _BY), _NAME),),
    ),
    Panel(
        "Model FLOPs",
        "flops",
        "Floating-point operations a second that the model needs for what is trained.",
        (Query(rate("mizzen_training_model_flops_total", "@RUN", _BY), _NAME),),
        width=4,
    ),
    Panel(
        "Utilisation",
        "percentunit",
        "Model FLOPs of what the devices can do at most by their data sheets.",
        (Query("run:mizzen_training_flops_utilisation:ratio_rate5m{@RUN}", _NAME),),
        width=4,
        most=1.0,
    ),
)

_RESOURCES = (
    Panel(
        "Memory",
        "bytes",
        "Of each worker.",
        (_gauge("mizzen_training_memory_bytes", "{{run}} worker {{rank}} {{kind}}", f"{_BY}, rank, kind"),),
    ),
    Panel(
        "Workers",
        "none",
        "Workers that train.",
        (Query(f"sum by ({_BY}) (mizzen_training_workers{{@RUN}})", _NAME),),
        width=4,
    ),
    Panel(
        "Started again",
        "none",
        "Times that the workers were started again, in the chosen time.",
        (Query(counted("mizzen_training_restarts_total", "@RUN", _BY), _NAME),),
        kind="number",
        width=4,
        limits=((0.5, "orange"), (2.0, "red")),
        runbook="MizzenTrainingRestarts",
    ),
    Panel(
        "Losses that are no numbers",
        "none",
        "Steps in the chosen time whose loss was infinite or not a number.",
        (Query(counted("mizzen_training_nonfinite_losses_total", "@RUN", _BY), _NAME),),
        kind="number",
        width=4,
        limits=((0.5, "red"),),
        runbook="MizzenLossNotFinite",
    ),
    Panel(
        "Runs that ended",
        "none",
        "In the chosen time, by how they ended.",
        (
            Query(
                counted("mizzen_training_runs_total", "@JOB", "train_job, outcome"),
                "{{train_job}} {{outcome}}",
            ),
        ),
        kind="number",
        width=4,
        base="text",
        runbook="MizzenTrainingFailed",
    ),
    Panel(
        "Time for a checkpoint",
        "s",
        "Of one worker, on average: written while the run goes on, and what steps waited for it.",
        (
            Query(mean("mizzen_training_checkpoint_duration_seconds", "@RUN", _BY), "{{run}} written"),
            Query(mean("mizzen_training_checkpoint_blocked_seconds", "@RUN", _BY), "{{run}} waited"),
        ),
        width=8,
    ),
    Panel(
        "Size of a checkpoint",
        "bytes",
        "Of the last one, over all workers.",
        (Query(f"sum by ({_BY}) (mizzen_training_checkpoint_bytes{{@RUN}})", _NAME),),
        width=8,
    ),
    Panel(
        "What happened",
        "none",
        "Events of runs in the chosen time, by their kind; `mizzen runs show` tells each with its time.",
        (Query(counted("mizzen_training_events_total", "@RUN", f"{_BY}, kind"), "{{run}} {{kind}}"),),
        width=8,
    ),
)

BOARD = Board(
    "training",
    "Mizzen training",
    "How runs learn, where their time goes, and what they use.",
    (Row("Learning", _LEARNING), Row("Time", _TIME), Row("Workers and memory", _RESOURCES)),
)

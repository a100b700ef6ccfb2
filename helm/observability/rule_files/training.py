"""Training runs: throughput, use of the devices; runs that stand still, diverge, restart or wait for one."""

from __future__ import annotations

from rule import Alert, Group, Record, RuleFile, by, grew

_RUN = by("run")
_RANK = by("run_rank")

_TRAINING_RECORDED = (
    Record(
        "run:mizzen_training_flops_utilisation:ratio_rate5m",
        f"""
        sum {_RUN} (rate(mizzen_training_model_flops_total{{$RELEASE}}[5m]))
        / (sum {_RUN} (mizzen_training_peak_flops_per_second{{$RELEASE}}) > 0)
        """,
    ),
    Record(
        "run_rank:mizzen_training_own_work_seconds:rate10m",
        # Backward is left out: there the fast ones wait for the slow one.
        f'sum {_RANK} (rate(mizzen_training_phase_seconds_total{{$RELEASE,phase=~"data|forward"}}[10m]))',
    ),
)

_TRAINING_RULES = (
    Alert(
        "MizzenTrainingStandsStill",
        "critical",
        f"""
        time() - max {_RUN} (mizzen_training_last_activity_timestamp_seconds{{$RELEASE}}) > $SECONDS(15m)
        and sum {_RUN} (mizzen_training_workers{{$RELEASE}}) > 0
        """,
        "{{ $labels.train_job }} has done nothing for {{ $value | humanizeDuration }}",
        """Its workers are there, but none has finished a step, an evaluation or a checkpoint. A worker hangs,
        or waits for data or for another worker. The run is {{ $labels.run }}.""",
        lasting="1m",  # a laptop that wakes up has done nothing for a night
    ),
    Alert(
        "MizzenLossNotFinite",
        "warning",
        grew("mizzen_training_nonfinite_losses_total", "namespace, release, train_job, run", "15m") + " > 0",
        "The loss of {{ $labels.train_job }} is not a number any more",
        """The run {{ $labels.run }} ends, unless its faults.on_nan lets it leave such batches out; `mizzen
        runs show` tells. Try a lower learning rate, gradient clipping or another precision.""",
    ),
    Alert(
        "MizzenTrainingRestarts",
        "warning",
        f"{grew('mizzen_training_restarts_total', 'namespace, release, train_job, run', '1h')} >= 2",
        "Workers of {{ $labels.train_job }} were started again {{ $value | humanize }} times in an hour",
        """Each time the run {{ $labels.run }} goes back to its last checkpoint. Machines are taken away, or
        a worker dies: memory is the usual reason.""",
    ),
    Alert(
        "MizzenTrainingFailed",
        "warning",
        grew(
            "mizzen_training_runs_total",
            "namespace, release, train_job",
            "1h",
            'outcome="failed"',
        )
        + " > 0",
        "A run of {{ $labels.train_job }} has failed",
        "`mizzen jobs show` says why, and `mizzen jobs logs` prints the log.",
    ),
    Alert(
        "MizzenTrainingWorkerSlow",
        "warning",
        f"""
        run_rank:mizzen_training_own_work_seconds:rate10m{{$RELEASE}}
        > on (namespace, release, train_job, run) group_left ()
        1.5 * quantile {_RUN} (0.5, run_rank:mizzen_training_own_work_seconds:rate10m{{$RELEASE}})
        and run_rank:mizzen_training_own_work_seconds:rate10m{{$RELEASE}} > 0.1
        """,
        "Worker {{ $labels.rank }} of {{ $labels.train_job }} holds the others up",
        """It spends over one and a half times as long on data and forward pass as the median of all workers,
        and all of them wait for it in each step. Its machine is slow, shared, hot, or far from the data. The
        run is {{ $labels.run }}.""",
        lasting="15m",
    ),
)

FILE = RuleFile(
    "training",
    "Training runs.",
    (
        Group(
            "mizzen-training-recorded",
            _TRAINING_RECORDED,
        ),
        Group(
            "mizzen-training",
            _TRAINING_RULES,
        ),
    ),
)

"""Rates, quantiles and progress of `mizzen top`, from pairs of readings written by hand."""

from __future__ import annotations

import math

import pytest

from mizzen.cli import top_figures
from mizzen.cli.top_figures import board, quantile, window
from mizzen.cli.top_readings import Reading, parsed

SERVED = 'app="shop",model="m",version="1"'
BEFORE = f"""
mizzen_model_info{{{SERVED},alias="production",digest="d",precision="fp32",provider="p",workload="w"}} 2
mizzen_requests_total{{{SERVED},route="/v1/x",method="POST",code="200"}} 100
mizzen_requests_total{{{SERVED},route="/healthz",method="GET",code="200"}} 7
mizzen_requests_total{{{SERVED},route="/v1/x",method="POST",code="503"}} 1
mizzen_request_duration_seconds_bucket{{{SERVED},route="/v1/x",le="0.1"}} 50
mizzen_request_duration_seconds_bucket{{{SERVED},route="/v1/x",le="0.2"}} 100
mizzen_request_duration_seconds_bucket{{{SERVED},route="/v1/x",le="+Inf"}} 100
mizzen_request_duration_seconds_bucket{{{SERVED},route="/healthz",le="+Inf"}} 7
mizzen_requests_in_flight{{{SERVED}}} 1
"""
AFTER = f"""
mizzen_model_info{{{SERVED},alias="production",digest="d",precision="fp32",provider="p",workload="w"}} 2
mizzen_requests_total{{{SERVED},route="/v1/x",method="POST",code="200"}} 140
mizzen_requests_total{{{SERVED},route="/healthz",method="GET",code="200"}} 900
mizzen_requests_total{{{SERVED},route="/v1/x",method="POST",code="503"}} 5
mizzen_requests_total{{{SERVED},route="/v1/x",method="POST",code="422"}} 2
mizzen_request_duration_seconds_bucket{{{SERVED},route="/v1/x",le="0.1"}} 70
mizzen_request_duration_seconds_bucket{{{SERVED},route="/v1/x",le="0.2"}} 140
mizzen_request_duration_seconds_bucket{{{SERVED},route="/v1/x",le="+Inf"}} 140
mizzen_request_duration_seconds_bucket{{{SERVED},route="/healthz",le="+Inf"}} 900
mizzen_requests_in_flight{{{SERVED}}} 3
"""
TRAINED = 'run="j-1",train_job="j"'


def reading(text: str, at_s: float = 0.0) -> Reading:
    return parsed(text, at_s)


def test_an_application_shows_its_own_requests_and_not_probes() -> None:
    (app,) = board(reading(BEFORE), reading(AFTER, 10.0)).apps
    assert (app.app, app.versions, app.replicas, app.in_flight) == ("shop", ("m@1",), 2, 3)
    assert app.requests_per_s == pytest.approx((40 + 4 + 2) / 10)
    assert app.server_errors_per_s == pytest.approx(0.4)
    assert app.client_errors_per_s == pytest.approx(0.2)
    # 20 of the 40 new requests took up to 0.1 s, 20 between 0.1 and 0.2 s.
    assert app.p50_s == pytest.approx(0.1)
    assert app.p99_s == pytest.approx(0.1 + 0.1 * (0.99 * 40 - 20) / 20)
    assert (app.queue_wait_p99_s, app.tokens_per_s, app.sequences_running) == (None, None, None)


def test_an_application_that_nobody_asks_has_no_latency() -> None:
    (app,) = board(reading(AFTER), reading(AFTER, 5.0)).apps
    assert (app.requests_per_s, app.p50_s, app.p99_s) == (0, None, None)


def test_a_counter_that_has_fallen_was_reset() -> None:
    (app,) = board(reading(AFTER), reading(BEFORE, 10.0)).apps
    assert app.requests_per_s == pytest.approx((100 + 1) / 10)


def test_tokens_and_sequences_are_shown_where_there_are_any() -> None:
    more = f"""
mizzen_chat_sequences{{{SERVED},state="running"}} 4
mizzen_chat_sequences{{{SERVED},state="waiting"}} 2
mizzen_chat_generated_tokens_total{{{SERVED}}} """
    (app,) = board(reading(BEFORE + more + "100"), reading(AFTER + more + "350", 10.0)).apps
    assert (app.tokens_per_s, app.sequences_running, app.sequences_waiting) == (25.0, 4, 2)


def test_a_canary_is_named_with_its_share_and_counts_as_no_replica() -> None:
    canary = 'app="shop",model="m",version="2"'
    more = f"""
mizzen_model_info{{{canary},alias="none",digest="e",precision="fp32",provider="p",workload="w"}} 2
mizzen_traffic_weight_ratio{{{SERVED},role="primary"}} 0.9
mizzen_traffic_weight_ratio{{{canary},role="canary"}} 0.1
mizzen_requests_total{{{canary},route="/v1/x",method="POST",code="200"}} 10
"""
    (app,) = board(reading(BEFORE), reading(AFTER + more, 10.0)).apps
    assert app.versions == ("m@1", "m@2 canary 10%")
    assert app.replicas == 2
    assert app.requests_per_s == pytest.approx((46 + 10) / 10)


def run_text(step: int, samples: float, steps_s: float, loss: str = "0.5") -> str:
    return f"""
mizzen_training_step{{{TRAINED}}} {step}
mizzen_training_planned_steps{{{TRAINED}}} 100
mizzen_training_loss{{{TRAINED}}} {loss}
mizzen_training_workers{{{TRAINED}}} 2
mizzen_training_samples_total{{{TRAINED}}} {samples}
mizzen_training_step_duration_seconds_count{{{TRAINED}}} {step}
mizzen_training_step_duration_seconds_sum{{{TRAINED}}} {steps_s}
"""


def test_a_run_shows_its_progress_and_how_long_it_will_take_at_the_present_pace() -> None:
    (run,) = board(reading(run_text(20, 640, 40)), reading(run_text(30, 960, 45), 10.0)).runs
    assert (run.train_job, run.run, run.workers, run.step, run.num_steps, run.loss) == (
        "j",
        "j-1",
        2,
        30,
        100,
        0.5,
    )
    assert (run.samples_per_s, run.tokens_per_s) == (32.0, None)
    assert run.seconds_left == pytest.approx(70 * 0.5)


def test_a_run_whose_step_takes_longer_than_the_readings_goes_by_all_its_steps() -> None:
    (run,) = board(reading(run_text(20, 640, 40)), reading(run_text(20, 640, 40, "NaN"), 2.0)).runs
    assert run.seconds_left == pytest.approx(80 * 2.0)
    assert run.samples_per_s is None
    assert run.loss is not None
    assert math.isnan(run.loss)


def test_a_run_that_has_not_taken_a_step_yet_has_no_end_in_sight() -> None:
    begun = f"mizzen_training_step{{{TRAINED}}} 0\n"
    (run,) = board(reading(begun), reading(begun, 2.0)).runs
    assert (run.seconds_left, run.num_steps, run.loss) == (None, None, None)


def test_what_is_reserved_is_shown_by_owner_and_what_is_used_over_a_longer_time() -> None:
    def costs(used_s: float) -> str:
        owner = 'owner="shop",owner_kind="app"'
        return f"""
mizzen_reserved_cpus{{{owner}}} 2
mizzen_reserved_gpus{{{owner}}} 0.5
mizzen_used_cpu_seconds_total{{{owner}}} {used_s}
mizzen_resident_memory_bytes{{{owner}}} 1048576
mizzen_reserved_cpus{{owner="j",owner_kind="train_job"}} 4
"""

    long_before, before, now = reading(costs(10)), reading(costs(25), 28.0), reading(costs(40), 30.0)
    job, shop = board(before, now, long_before).costs
    assert (job.owner, job.cpus, job.cpus_used) == ("j", 4, 0.0)
    assert (shop.owner_kind, shop.cpus, shop.gpus, shop.memory_bytes) == ("app", 2, 0.5, 1048576)
    assert shop.cpus_used == pytest.approx(1.0)
    assert [one.cpus_used for one in board(before, now).costs] == [None, None]  # 2 s are too short to tell


def test_nothing_running_is_an_empty_board() -> None:
    empty = reading("mizzen_build_info 1\n")
    assert board(empty, empty) == top_figures.Board((), (), ())


@pytest.mark.parametrize(
    ("buckets", "q", "expected"),
    [
        ({}, 0.5, None),
        ({0.1: 0, math.inf: 0}, 0.5, None),
        ({0.1: 10, math.inf: 10}, 0.5, 0.05),
        ({0.1: 0, 0.2: 10, math.inf: 10}, 0.5, 0.15),
        ({0.1: 0, 0.2: 0, math.inf: 10}, 0.99, 0.2),
        ({0.1: 10, 0.2: 10, math.inf: 10}, 1.0, 0.1),
    ],
)
def test_quantiles_are_those_of_promql(buckets: dict[float, float], q: float, expected: float | None) -> None:
    assert quantile(buckets, q) == (None if expected is None else pytest.approx(expected))


def test_rates_are_over_the_latest_reading_that_is_old_enough() -> None:
    readings = [reading("", at_s) for at_s in (0.0, 5.0, 10.0, 12.0)]
    assert window(readings, readings[-1], 6.0) is readings[1]
    assert window(readings, readings[-1], 60.0) is readings[0]
    assert window(readings[-1:], readings[-1], 1.0) is None

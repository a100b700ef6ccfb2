"""Series across processes: each test writes from processes of its own and reads the totals here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from mizzen import metrics, totals
from mizzen.metrics import SERIES
from mizzen.series import Series


class PrometheusTools(Protocol):
    """Where `prometheus_tools` has found programs."""

    promtool: Path


SERVE = """
from mizzen import metrics, totals
from mizzen.recording import ServedMetrics
m = ServedMetrics("shop", "recommendation", 3)
for n in range({requests}):
    m.started()
    m.finished(route="/v1/x", method="POST", code=200, duration_s=0.01)
m.started()
m.recorder.observe(metrics.BATCH_SIZE, 4)
m.loaded(digest="d", workload="w", precision="fp32", provider="CPU")
"""
TRAIN = """
from mizzen import metrics
from mizzen.recording import Recorder
r = Recorder(train_job="job-a", run="run-1")
for n in range(10):
    r.set(metrics.TRAINING_LOSS, 1.0 / (n + 1))
    r.set(metrics.TRAINING_LEARNING_RATE, 0.001)
    r.observe(metrics.TRAINING_STEP_DURATION, 0.2)
    r.count(metrics.TRAINING_STEPS)
    r.count(metrics.TRAINING_SAMPLES, 32)
"""
WAIT = "print('ready', flush=True); import sys; sys.stdin.read()"


def run(home: Path, code: str) -> None:
    subprocess.run([sys.executable, "-c", code], env=environ(home), check=True, timeout=60)


def environ(home: Path) -> dict[str, str]:
    return {"MIZZEN_HOME": str(home), "PATH": "/usr/bin:/bin"}


def value(text: str, name: str, **labels: str) -> float:
    total = 0.0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                total += sample.value
    return total


def series_of_processes(folder: Path) -> list[str]:
    of_the_machine = {one.name for one in SERIES if one.emitter == "exporter"}
    families = text_string_to_metric_families(totals.exposition(folder).decode())
    return [family.name for family in families if family.name not in of_the_machine]


def test_totals_span_processes_that_live_and_that_have_died(tmp_path: Path):
    run(tmp_path, SERVE.format(requests=3))
    with subprocess.Popen(
        [sys.executable, "-c", SERVE.format(requests=2) + WAIT],
        env=environ(tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as living:
        assert living.stdout is not None
        assert living.stdout.readline() == b"ready\n"
        text = totals.exposition(tmp_path / "metrics").decode()
        assert not totals.clean(tmp_path / "metrics")
        assert value(text, "mizzen_requests_total", code="200", route="/v1/x", app="shop") == 5
        assert value(text, "mizzen_request_duration_seconds_count", app="shop") == 5
        assert value(text, "mizzen_batch_size_sum") == 8
        # What is in flight in a process that has died is no longer in flight; its model is no longer served.
        assert value(text, "mizzen_requests_in_flight", app="shop") == 1
        assert value(text, "mizzen_model_info", model="recommendation", version="3", digest="d") == 1
        living.kill()
    text = totals.exposition(tmp_path / "metrics").decode()
    assert value(text, "mizzen_requests_total") == 5
    assert "mizzen_model_info{" not in text
    assert totals.clean(tmp_path / "metrics")
    assert series_of_processes(tmp_path / "metrics") == []


def test_training_shows_loss_rate_and_throughput(tmp_path: Path):
    run(tmp_path, TRAIN)
    text = totals.exposition(tmp_path / "metrics").decode()
    assert value(text, "mizzen_training_samples_total", train_job="job-a") == 320
    assert value(text, "mizzen_training_tokens_total", train_job="job-a") == 0
    assert value(text, "mizzen_training_steps_total", train_job="job-a") == 10
    assert value(text, "mizzen_training_step_duration_seconds_sum", train_job="job-a") == pytest.approx(2.0)


def test_a_version_that_is_no_longer_served_has_no_line(tmp_path: Path):
    code = SERVE.format(requests=1) + "m.forget()\n"
    code += "print(totals.exposition().decode())"
    text = subprocess.run(
        [sys.executable, "-c", code],
        env=environ(tmp_path),
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    ).stdout
    assert value(text, "mizzen_requests_total") == 1
    assert "mizzen_model_info{" not in text
    assert "mizzen_requests_in_flight{" not in text


def test_reading_does_not_make_this_process_a_writer(tmp_path: Path):
    run(tmp_path, TRAIN)
    totals.exposition(tmp_path / "metrics")  # which takes the gauges of the dead away
    before = sorted(path.name for path in (tmp_path / "metrics").iterdir())
    assert totals.samples(metrics.TRAINING_SAMPLES, tmp_path / "metrics") == [
        ({"train_job": "job-a", "run": "run-1"}, 320.0)
    ]
    assert totals.samples(metrics.TRAINING_SAMPLES, tmp_path / "metrics", pids={-1}) == []
    assert sorted(path.name for path in (tmp_path / "metrics").iterdir()) == before


def test_a_library_that_came_first_does_not_keep_series_out_of_the_files(tmp_path: Path):
    run(tmp_path, "import prometheus_client\n" + TRAIN)
    assert value(totals.exposition(tmp_path / "metrics").decode(), "mizzen_training_samples_total") == 320


def test_a_machine_without_series_shows_none(tmp_path: Path):
    assert series_of_processes(tmp_path / "nothing") == []


def gauge(folder: Path) -> Path:
    (found,) = folder.glob("gauge_livesum_*.db")
    return found


def test_a_number_that_another_process_has_now_does_not_bring_a_gauge_back(tmp_path: Path) -> None:
    run(tmp_path, SERVE.format(requests=1))
    folder = tmp_path / "metrics"
    gauge(folder).rename(folder / f"gauge_livesum_{os.getpid()}.db")
    (record,) = folder.glob("process_*.txt")
    record.rename(folder / f"process_{os.getpid()}.txt")
    text = totals.exposition(folder).decode()
    assert value(text, "mizzen_requests_total") == 1
    assert "mizzen_requests_in_flight{" not in text


def test_a_process_starts_without_the_gauges_that_one_before_left_under_its_number(tmp_path: Path) -> None:
    run(tmp_path, SERVE.format(requests=1))
    folder = tmp_path / "metrics"
    left = gauge(folder)
    take_over = "import os, pathlib\n"
    for kind in ("gauge_livesum", "counter"):
        take_over += f"pathlib.Path({str(left)!r}).with_name(f'{kind}_{{os.getpid()}}.db').write_bytes("
        take_over += (
            f"pathlib.Path({str(left.with_name(left.name.replace('gauge_livesum', kind)))!r}).read_bytes())\n"
        )
    show = "print(totals.exposition().decode())"
    code = take_over + SERVE.format(requests=1) + show
    text = subprocess.run(
        [sys.executable, "-c", code], env=environ(tmp_path), check=True, capture_output=True, text=True
    ).stdout
    assert value(text, "mizzen_requests_in_flight") == 1
    assert (
        value(text, "mizzen_requests_total") == 3
    )  # its own, the other's, and the other's that it went on from


def test_an_exporter_that_cannot_see_the_processes_of_another_container_deletes_none_of_theirs(
    tmp_path: Path,
) -> None:
    run(tmp_path, SERVE.format(requests=1))
    folder = tmp_path / "metrics"
    (record,) = folder.glob("process_*.txt")
    _, ticks = record.read_text().split()
    record.write_text(f"pid:[1] {ticks}")
    assert value(totals.exposition(folder).decode(), "mizzen_requests_in_flight") == 1
    assert not totals.clean(folder)


def test_a_process_that_has_ended_but_was_not_waited_for_is_dead(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVE.format(requests=1)], env=environ(tmp_path), stdout=subprocess.PIPE
    ) as zombie:
        assert zombie.stdout is not None
        assert zombie.stdout.read() == b""  # it has ended, or will in a moment
        deadline_s = time.monotonic() + 30
        while "mizzen_requests_in_flight{" in totals.exposition(tmp_path / "metrics").decode():
            assert time.monotonic() < deadline_s


EVERYTHING = """
from mizzen.metrics import SERIES
from mizzen.recording import Recorder
for one in SERIES:
    labels = {label.name: (label.values or ("a",))[0] for label in one.labels}
    r = Recorder()
    if one.emitter != "exporter":
        {"counter": r.count, "gauge": r.set, "histogram": r.observe}[one.kind](one, 1, **labels)
"""


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every series has a value."""
    home = tmp_path_factory.mktemp("home")
    run(home, EVERYTHING)
    return home / "metrics"


def test_every_series_that_is_declared_is_shown_in_both_formats_with_its_kind(everything: Path) -> None:
    # Training's and serving's gauges go with their process; everything else can be seen from here.
    plain = {f.name: f for f in text_string_to_metric_families(totals.exposition(everything).decode())}
    page = totals.exposition(everything, openmetrics=True).decode()
    open_ones = {f.name: f for f in openmetrics_families(page)}
    assert page.endswith("# EOF\n")
    assert set(plain) == set(open_ones)
    for series in SERIES:
        if series.kind == "gauge" and series.across.startswith("live") and series.emitter != "exporter":
            continue
        family = open_ones[series.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (series.kind, series.help)
        assert family.unit in (series.unit, "")
        assert plain[family.name].type == series.kind


def test_promtool_finds_nothing_wrong_with_names_help_and_units(
    everything: Path, prometheus_tools: PrometheusTools
) -> None:
    checked = subprocess.run(
        [prometheus_tools.promtool, "check", "metrics"],
        input=totals.exposition(everything),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (checked.stdout + checked.stderr).decode() == ""
    assert checked.returncode == 0


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        (None, False),
        ("*/*", False),
        ("text/plain;version=0.0.4;q=0.3", False),
        # As Prometheus 2.42 and 3 ask.
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", True),
        ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,*/*;q=0.1", True),
    ],
)
def test_openmetrics_comes_to_whoever_asks_for_it(
    everything: Path, accept: str | None, openmetrics: bool
) -> None:
    body, content_type = totals.answer(accept, everything)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0") == openmetrics
    assert body.endswith(b"# EOF\n") == openmetrics
    assert openmetrics or content_type == "text/plain; version=0.0.4; charset=utf-8"


def test_the_machine_says_which_mizzen_it_is_and_how_full_its_disk_is(tmp_path: Path) -> None:
    text = totals.exposition(tmp_path / "not" / "there" / "yet").decode()
    size = value(text, "mizzen_disk_size_bytes")
    assert size == shutil.disk_usage(tmp_path).total
    assert 0 < value(text, "mizzen_disk_free_bytes") < size
    assert value(text, "mizzen_build_info", release_version=version("mizzen")) == 1


@pytest.mark.parametrize("series", SERIES, ids=lambda series: series.name)
def test_names_say_their_unit_and_kind(series: Series):
    assert re.fullmatch(r"mizzen_[a-z_]+", series.name)
    assert series.help.endswith(".")
    bare = series.name.removesuffix("_total")
    assert (series.kind == "counter") == (bare != series.name)
    for unit in ("seconds", "bytes", "tokens", "ratio"):
        assert (series.unit == unit) == bare.endswith(f"_{unit}")
    assert series.unit in ("seconds", "bytes", "tokens", "ratio", "1")
    assert bool(series.buckets) == (series.kind == "histogram")
    assert list(series.buckets) == sorted(set(series.buckets))


@pytest.mark.parametrize("series", SERIES, ids=lambda series: series.name)
def test_every_label_has_a_bound(series: Series):
    assert len(set(series.label_names)) == len(series.labels)
    assert not {"job", "instance", "le", "pid"} & set(series.label_names)  # Prometheus's own
    for label in series.labels:
        assert label.help.endswith(".")
        assert len(set(label.values)) == len(label.values)
        assert label.values or 0 < label.limit <= 2000


PACKAGE = Path(metrics.__file__).parent
READERS = {"metrics.py", "top_figures.py"}


def test_every_series_is_written_by_somebody():
    sources = [path.read_text() for path in PACKAGE.rglob("*.py") if path.name not in READERS]
    written = set(re.findall(r"\bmetrics\.([A-Z_]+)\b", "\n".join(sources)))
    assert {name for name, one in vars(metrics).items() if isinstance(one, Series)} <= written


def test_no_two_series_have_a_name_or_would_write_the_same_lines():
    names = [one.name for one in SERIES]
    lines = [name for one in SERIES for name in lines_of(one)]
    assert len(set(names)) == len(names)
    assert len(set(lines)) == len(lines)


def lines_of(series: Series) -> list[str]:
    if series.kind != "histogram":
        return [series.name]
    return [series.name + ending for ending in ("_bucket", "_count", "_sum")]

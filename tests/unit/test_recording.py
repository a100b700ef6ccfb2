"""Recorders, each in a process of its own, for a process keeps one set of files; the totals are read here."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mizzen import metrics, totals
from mizzen.recording import Recorder
from mizzen.series import ABSENT, Label, Series, is_absent

BEGIN = """
import math, threading
from mizzen import metrics, recording
from mizzen.recording import Recorder, ServedMetrics
from mizzen.series import Label, Series
"""
STRANGE = """
USER = Label("user", "Hostile.", limit=50)
BY_USER = Series("mizzen_by_user_total", "counter", "1", (USER,), "Test.", "replica")
"""


def run(home: Path, code: str) -> str:
    environ = {**os.environ, "MIZZEN_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-c", BEGIN + code],
        env=environ,
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    ).stdout


def lines(home: Path, name: str) -> list[str]:
    text = totals.exposition(home / "metrics").decode()
    return [line for line in text.splitlines() if line.startswith((name + "{", name + " "))]


def test_a_hostile_user_id_never_becomes_a_label_and_fills_no_memory(tmp_path: Path) -> None:
    sent = 5000
    held = run(
        tmp_path,
        f"""{STRANGE}
r = Recorder(app="a", model="m", version="1")
for n in range({sent}):
    r.count(BY_USER, user=f"user-{{n}}")
    r.count(metrics.REQUESTS, route=f"/x/{{n}}", method=f"M{{n}}", code=str(n))
r.count(BY_USER, user="line\\nbreak")
r.count(BY_USER, user="x" * 100_000)
r.count(BY_USER, user="\\ud800")
print(len(r._cells), max(len(seen) for seen in recording._seen.values()))
""",
    )
    by_user = lines(tmp_path, "mizzen_by_user_total")
    assert len(by_user) == 50 + 1
    assert f'mizzen_by_user_total{{user="other"}} {sent - 50 + 3}.0' in by_user
    requests = lines(tmp_path, "mizzen_requests_total")
    assert len(requests) <= 101  # of routes, the label with the highest limit
    assert all('method="other"' in line for line in requests)
    cells, seen = map(int, held.split())
    assert cells <= 50 + 1
    assert seen <= 100


def test_a_value_outside_a_closed_set_is_other_and_the_order_of_labels_is_free(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
r = Recorder(app="a", model="m", version="1")
r.count(metrics.REJECTED, reason="queue_full")
r.count(metrics.REJECTED, reason="because")
r.count(metrics.REQUESTS, route="/a", method="GET", code="200")
r.count(metrics.REQUESTS, code="200", method="GET", route="/a")
r.count(metrics.REQUESTS, method="POST", route="GET", code="200")
""",
    )
    reasons = {labels["reason"]: n for labels, n in totals.samples(metrics.REJECTED, tmp_path / "metrics")}
    assert reasons == {"queue_full": 1, "other": 1}
    counted = totals.samples(metrics.REQUESTS, tmp_path / "metrics")
    assert sorted((labels["route"], labels["method"], n) for labels, n in counted) == [
        ("/a", "GET", 2),
        ("GET", "POST", 1),
    ]


@pytest.mark.parametrize("labels", [{}, {"reason": "invalid", "user": "u"}, {"user": "u"}])
def test_a_label_too_many_or_too_few_is_a_mistake_that_is_said(labels: dict[str, str]) -> None:
    recorder = Recorder(app="a", model="m", version="1")
    with pytest.raises(ValueError, match="mizzen_requests_rejected_total has the labels"):
        recorder.count(metrics.REJECTED, **labels)


def test_gauges_that_are_forgotten_vanish_and_the_rest_stays(tmp_path: Path) -> None:
    both = """
r = Recorder(app="a", model="m", version="1")
r.set(metrics.CHAT_SEQUENCES, 2, state="running")
r.count(metrics.CHAT_GENERATED_TOKENS, 5)
"""
    # A gauge over all processes, living or not: so that one that is gone still counts.
    stays = "r.set(KEPT, 3)\n"
    kept = 'KEPT = Series("mizzen_kept", "gauge", "1", (), "Test.", "replica", across="max")\n'
    run(tmp_path, both + kept + stays)
    shown = run(
        tmp_path,
        both
        + kept
        + """
r.bound(state="waiting").set(metrics.CHAT_SEQUENCES, 7)
r.set(KEPT, 9)
r.observe(metrics.BATCH_SIZE, 4)
r.forget()
r.set(metrics.CHAT_SEQUENCES, 2, state="running")
r.add(metrics.REQUESTS_IN_FLIGHT, 1)
r.count(metrics.CHAT_GENERATED_TOKENS, 5)
from mizzen import totals
print(totals.exposition().decode())
""",
    )
    assert "mizzen_chat_sequences{" not in shown
    assert "mizzen_requests_in_flight{" not in shown
    assert "mizzen_kept 3.0" in shown
    assert 'mizzen_chat_generated_tokens_total{app="a",model="m",version="1"} 15.0' in shown
    assert 'mizzen_batch_size_count{app="a",model="m",version="1"} 1.0' in shown


def test_a_gauge_of_two_recorders_stays_until_both_forget_it_and_begins_anew(tmp_path: Path) -> None:
    seen = run(
        tmp_path,
        """
from mizzen import totals
def shown():
    return [value for _, value in totals.samples(metrics.REQUESTS_IN_FLIGHT)]
canary, primary = ServedMetrics("a", "m", 1), ServedMetrics("a", "m", 1)
for one in (canary, primary):
    one.loaded(digest="d", workload="w", precision="fp32", provider="p")
canary.started()
canary.forget()
print(shown())
primary.forget()
canary.finished(route="/x", method="GET", code=200, duration_s=0.1)
print(shown())
again = ServedMetrics("a", "m", 1)
again.started()
print(shown())
""",
    )
    assert seen.split("\n")[:3] == ["[1.0]", "[]", "[1.0]"]


def test_a_loss_that_is_no_number_is_shown(tmp_path: Path) -> None:
    code = """
from mizzen import totals
Recorder(train_job="j", run="r").set(metrics.TRAINING_LOSS, math.nan)
print(totals.exposition().decode())
"""
    assert 'mizzen_training_loss{run="r",train_job="j"} NaN' in run(tmp_path, code)
    assert is_absent(ABSENT)
    assert math.isnan(ABSENT)
    assert not is_absent(math.nan)
    assert not is_absent(math.inf - math.inf)


def test_threads_lose_no_count(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
r = Recorder(app="a", model="m", version="1")
def work():
    for n in range(500):
        r.add(metrics.REQUESTS_IN_FLIGHT, 1)
        r.count(metrics.REJECTED, reason=("invalid", "forbidden")[n % 2])
        r.observe(metrics.BATCH_SIZE, 1)
        r.add(metrics.REQUESTS_IN_FLIGHT, -1)
threads = [threading.Thread(target=work) for _ in range(8)]
[one.start() for one in threads]
[one.join() for one in threads]
from mizzen import totals
assert [value for _, value in totals.samples(metrics.REQUESTS_IN_FLIGHT)] == [0]
""",
    )
    assert sum(n for _, n in totals.samples(metrics.REJECTED, tmp_path / "metrics")) == 4000
    assert 'mizzen_batch_size_sum{app="a",model="m",version="1"} 4000.0' in lines(
        tmp_path, "mizzen_batch_size_sum"
    )


def test_a_forked_child_counts_for_itself_and_is_known_by_its_number(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
import os
from mizzen import liveness, settings, totals
folder = settings.current().metrics_dir
r = Recorder(app="a", model="m", version="1")
r.count(metrics.REJECTED, 2, reason="invalid")
r.set(metrics.SLO_LATENCY, 2.0)
child = os.fork()
if not child:
    r.count(metrics.REJECTED, 3, reason="invalid")
    assert (folder / f"process_{os.getpid()}.txt").read_text() == liveness._identity(os.getpid())
    assert [n for _, n in totals.samples(metrics.REJECTED)] == [5]
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert [n for _, n in totals.samples(metrics.REJECTED)] == [5]
""",
    )


def test_a_folder_that_somebody_deletes_stops_no_process(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
import os, shutil
r = Recorder(app="a", model="m", version="1")
r.count(metrics.REJECTED, reason="invalid")
shutil.rmtree(os.environ["MIZZEN_HOME"] + "/metrics")
r.count(metrics.REJECTED, reason="invalid")
r.set(metrics.SLO_LATENCY, 2.0)
r.observe(metrics.BATCH_SIZE, 1)
""",
    )


def test_a_folder_that_cannot_be_written_refuses_no_request_and_counts_again_later(tmp_path: Path) -> None:
    (tmp_path / "metrics").write_text("a file where the folder should be")
    run(
        tmp_path,
        """
from mizzen import settings
m = ServedMetrics("shop", "recommendation", 3)
r = Recorder(app="shop", model="recommendation", version="3")
for n in range(2):
    m.finished(route="/v1/x", method="POST", code=200, duration_s=0.01)
    r.set(metrics.MODEL_LOADED_AT, 1.0)
    r.count(metrics.REJECTED, reason="deadline")
    r.observe(metrics.BATCH_SIZE, 2)
    if not n:
        settings.current().metrics_dir.unlink()
""",
    )
    assert lines(tmp_path, "mizzen_requests_rejected_total")[0].endswith(" 1.0")
    assert lines(tmp_path, "mizzen_request_duration_seconds_count")[0].endswith(" 1.0")


def test_a_plug_in_records_series_of_its_own(tmp_path: Path) -> None:
    own = Series(
        "digits_seen_total", "counter", "1", (Label("digit", "0 to 9.", limit=10),), "Test.", "replica"
    )
    run(
        tmp_path,
        """
SEEN = Series("digits_seen_total", "counter", "1", (Label("digit", "0 to 9.", limit=10),), "Test.", "replica")
Recorder(app="a").count(SEEN, 3, digit="7")
""",
    )
    assert totals.samples(own, tmp_path / "metrics") == [({"digit": "7"}, 3.0)]

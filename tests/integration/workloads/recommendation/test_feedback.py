"""Feedback in a real lake: it counts once, tells the click-through of versions, and can be trained on."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest

from mizzen.store.lake import ParquetLake, rows_once
from mizzen.training.tables import RaySources
from mizzen.workloads.contract import ModelIdentity, ServedModel
from mizzen.workloads.recommendation import workload
from mizzen.workloads.recommendation.answers import new_id
from mizzen.workloads.recommendation.catalogue import Catalogue
from mizzen.workloads.recommendation.feedback import Feedback, FeedbackRequest, table_of
from mizzen.workloads.recommendation.histories import Histories

COLUMNS = {
    "user": "user_id",
    "item": "item_id",
    "timestamp": "timestamp",
    "rating": "value",
    "type": "type",
    "event": "event_id",
}
TYPES = {"click": None, "purchase": None, "rating": 4}
"""What a job file says to train on feedback."""


def take(url: str, *requests: list[dict[str, Any]]) -> None:
    """Each list of events is a request; all are sent at once."""

    async def run() -> None:
        lake = ParquetLake(url)
        identity, nothing = ModelIdentity("films", 9, "sha256:abc"), cast("Any", None)
        served = ServedModel(identity, Path(), runtime=nothing, batched=nothing, app="cinema")
        feedback = Feedback(served, lake)
        bodies = [FeedbackRequest.model_validate({"events": events}) for events in requests]
        answers = await asyncio.gather(*map(feedback.take, bodies))
        assert all(answer.rejected == 0 for answer in answers)
        await lake.close()

    asyncio.run(run())


def event(event_id: str, kind: str, user: str, item: str, **more: Any) -> dict[str, Any]:
    return {"event_id": event_id, "type": kind, "user_id": user, "item_id": item, **more}


@pytest.mark.usefixtures("ray_home")
def test_a_job_reads_the_lake_as_its_interactions_and_no_event_counts_twice(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    clicks = [
        [
            event(f"{user}-{n}", "click", user, f"i{n}", timestamp=f"2026-11-22T10:00:{n:02d}Z")
            for n in range(6)
        ]
        for user in ("u1", "u2")
    ]
    others = [
        event("r1", "rating", "u1", "i7", value=5),
        event("r2", "rating", "u1", "i8", value=2),
        event("s1", "impression", "u1", "i9"),
        event("p1", "purchase", "u2", "i9", value=3.5),
    ]
    # Sent again: these have no time of their own, so the time of receipt differs.
    take(url, *clicks, others)
    take(url, others, clicks[0])
    folder = tmp_path / "prepared"
    folder.mkdir()
    data = {
        "interactions": str(tmp_path / "store" / "lake" / table_of("cinema")),
        "columns": COLUMNS,
        "types": TYPES,
    }
    report = workload.prepare(workload.data_config.model_validate(data), RaySources(), folder)
    items, read = Catalogue.read(folder / "items.arrow").item_ids, Histories(folder / "histories.arrow")
    histories = {read.user(row): [items[n - 1] for n in read.items(row)] for row in range(len(read))}
    assert histories == {
        "u1": [*(f"i{n}" for n in range(6)), "i7"],
        "u2": [*(f"i{n}" for n in range(6)), "i9"],
    }
    assert report.rows_read == 12 + 4 + 4 + 6
    assert report.rows_kept == 14


def test_the_click_through_of_each_version_comes_from_the_lake_alone(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    old, new = new_id(1), new_id(2)
    shown = [event(f"s{n}", "impression", "u", f"i{n}", recommendation_id=old) for n in range(8)]
    shown += [event(f"t{n}", "impression", "u", f"i{n}", recommendation_id=new) for n in range(4)]
    clicked = [event("c1", "click", "u", "i1", recommendation_id=old)]
    clicked += [event(f"d{n}", "click", "u", f"i{n}", recommendation_id=new) for n in range(3)]
    take(url, shown, clicked, [event("x", "click", "u", "i1")])
    take(url, clicked)
    counts = Counter(
        (row["model_version"], row["type"])
        for rows in rows_once(url, table_of("cinema"), "event_id", columns=["model_version", "type"])
        for row in rows.to_pylist()
    )
    assert counts == {
        (1, "impression"): 8, (1, "click"): 1, (2, "impression"): 4, (2, "click"): 3, (None, "click"): 1
    }  # fmt: skip

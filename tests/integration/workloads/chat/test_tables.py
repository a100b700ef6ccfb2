"""Conversations of one's own, read by Ray Data from each format, and the gate's data set made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mizzen.training.tables import RaySources
from mizzen.workloads.chat import workload
from mizzen.workloads.chat.data import Conversations

ROWS = [(f"question {i}", f"answer {i}") for i in range(120)]


pytestmark = pytest.mark.usefixtures("ray_home")


def messages(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def write(folder: Path, kind: str) -> Path:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = folder / f"rows.{kind}"
    if kind == "csv":
        pd.DataFrame(ROWS, columns=["q", "a"]).to_csv(file, index=False)
    elif kind == "jsonl":
        file.write_text("".join(json.dumps({"m": messages(*row)}) + "\n" for row in ROWS))
    else:
        pq.write_table(pa.Table.from_pylist([{"m": messages(*row)} for row in ROWS]), file)
    return file


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_each_format_gives_the_same_conversations(tmp_path: Path, kind: str) -> None:
    columns = {"prompt": "q", "response": "a"} if kind == "csv" else {"messages": "m"}
    data = workload.data_config.model_validate({"path": str(write(tmp_path, kind)), "columns": columns})
    report = workload.prepare(data, RaySources(), tmp_path)
    assert (report.rows_read, report.rows_kept, dict(report.dropped)) == (120, 120, {})
    splits = [Conversations(tmp_path, split) for split in ("train", "validation", "test")]
    kept = [split[i] for split in splits for i in range(len(split))]
    assert sorted(m[0]["content"] for m in kept) == sorted(question for question, _ in ROWS)
    assert all(m == messages(m[0]["content"], m[0]["content"].replace("question", "answer")) for m in kept)

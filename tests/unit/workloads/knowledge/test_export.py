from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mizzen.errors import DataError, JobError, RequestError
from mizzen.store import gate
from mizzen.store.export import OnnxExporter
from mizzen.store.runtime import OnnxRuntime
from mizzen.workloads.contract import Prepared
from mizzen.workloads.knowledge import data, export, model, table, workload
from mizzen.workloads.knowledge.config import KnowledgeModel
from mizzen.workloads.knowledge.samples import TOKENIZER


@pytest.fixture(scope="module")
def runtime() -> OnnxRuntime:
    return OnnxRuntime("cpu", 1)


def test_a_version_holds_all_that_serving_needs(version: Path) -> None:
    names = {file.name for file in version.iterdir()}
    assert names == {export.ONNX, export.INDEX, table.FILE, data.SETTINGS, TOKENIZER}


def test_the_graph_is_made_once_and_the_same_bytes_come_out(
    base: Prepared, version: Path, tiny_embedder: Path, tmp_path: Path
) -> None:
    class Counting(OnnxExporter):
        made = 0

        def to_onnx(self, *args: Any, **kwargs: Any) -> None:
            Counting.made += 1
            super().to_onnx(*args, **kwargs)

    exporter = Counting(tmp_path / "cache")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        export.export(model.build(tiny_embedder), base, tmp_path / name, "fp32", exporter)
    assert Counting.made == 1
    for file in version.iterdir():
        digests = {
            hashlib.sha256((f / file.name).read_bytes()).digest()
            for f in (version, tmp_path / "a", tmp_path / "b")
        }
        assert len(digests) == 1, file.name


def test_the_gate_passes_on_real_texts_of_several_lengths(
    base: Prepared, version: Path, tiny_embedder: Path, runtime: OnnxRuntime
) -> None:
    module = model.build(tiny_embedder)
    report = gate.judge(workload, module, KnowledgeModel(), base, version, "fp32", runtime)
    assert report.passed, report.lines()
    assert len(report.parity) == len(export.BATCHES) * len(export.LENGTHS)
    assert report.quality is None


def test_the_gate_sees_an_export_of_another_model(
    base: Prepared, version: Path, tiny_embedder: Path, runtime: OnnxRuntime
) -> None:
    module = model.build(tiny_embedder)
    torch.nn.init.normal_(module.bert.embeddings.word_embeddings.weight)
    assert not gate.judge(workload, module, KnowledgeModel(), base, version, "fp32", runtime).passed


def test_rows_of_a_probe_differ_in_length(base: Prepared) -> None:
    for probe in export.probes(base):
        lengths = probe.inputs["attention_mask"].sum(axis=1)
        assert lengths.max() == probe.inputs["input_ids"].shape[1]
        assert len(lengths) == 1 or lengths.min() < lengths.max()


def test_padding_has_no_part_in_an_embedding(version: Path, runtime: OnnxRuntime) -> None:
    predict = export.open_model(version, runtime)
    ids = np.array([[2, 10, 11, 3]])
    alone = predict({"input_ids": ids, "attention_mask": np.ones_like(ids)})[export.OUTPUT]
    padded = np.array([[2, 10, 11, 3, 0, 0], [2, 3, 0, 0, 0, 0]])
    mask = (padded > 0).astype(np.int64)
    assert predict({"input_ids": padded, "attention_mask": mask})[export.OUTPUT][0] == pytest.approx(
        alone[0], abs=1e-6
    )


@pytest.mark.parametrize(
    ("ids", "mask", "field"),
    [
        (np.ones((1, 257), np.int64), np.ones((1, 257), np.int64), "input_ids"),
        (np.ones((1, 4), np.int64), np.ones((1, 5), np.int64), "attention_mask"),
        (np.ones((2, 4), np.int64), np.array([[1, 1, 0, 0], [0, 0, 0, 0]]), "attention_mask"),
    ],
    ids=["too long", "shapes differ", "nothing to read"],
)
def test_tensors_that_cannot_be_read_are_the_callers_fault(
    version: Path, runtime: OnnxRuntime, ids: Any, mask: Any, field: str
) -> None:
    with pytest.raises(RequestError) as caught:
        export.open_model(version, runtime)({"input_ids": ids, "attention_mask": mask})
    assert caught.value.field == field


def test_the_signature_names_the_tensors_of_the_model(version: Path, runtime: OnnxRuntime) -> None:
    signature = workload.signature(version, runtime)
    assert [spec.name for spec in signature.inputs] == ["input_ids", "attention_mask"]
    assert signature.outputs[0].shape == (-1, 16)


def test_int8_without_questions_is_refused_and_training_too(base: Prepared, tmp_path: Path) -> None:
    folder = tmp_path / "none"
    shutil.copytree(base.folder, folder)
    pq.write_table(data.QUESTIONS_SCHEMA.empty_table(), folder / data.QUESTIONS)
    nothing = Prepared(folder=folder, digest="0" * 64, report=base.report)
    held_out: Any = workload.evaluation_data(KnowledgeModel(), nothing, "test")
    assert len(held_out) == 0
    with pytest.raises(DataError, match="no questions to judge int8 by"):
        workload.evaluation_data(KnowledgeModel(), nothing, "validation")
    with pytest.raises(JobError, match="a knowledge base is not trained"):
        workload.training_data(KnowledgeModel(), nothing)

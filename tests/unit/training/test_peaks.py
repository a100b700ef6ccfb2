"""Data-sheet figures by the names that CUDA gives devices."""

from __future__ import annotations

import pytest
import torch

from mizzen.training.peaks import peak_flops, peak_of


@pytest.mark.parametrize(
    ("name", "bf16", "fp32"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4, 66.9),
        ("NVIDIA H100 PCIe", 756.0, 51.2),
        ("NVIDIA H100 NVL", 835.5, 60.0),
        ("NVIDIA H200", 989.4, 66.9),
        ("NVIDIA H200 NVL", 835.5, 60.0),
        ("NVIDIA A100-SXM4-80GB", 312.0, 19.5),
        ("NVIDIA A100 80GB PCIe", 312.0, 19.5),
        ("NVIDIA A100-PCIE-40GB", 312.0, 19.5),
        ("NVIDIA L4", 121.0, 30.3),
        ("NVIDIA L40S", 362.05, 91.6),
        ("NVIDIA L40", 181.05, 90.5),
        ("NVIDIA A10", 125.0, 31.2),
        ("NVIDIA A10G", None, None),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", None, None),
        ("NVIDIA GeForce RTX 4090", None, None),
        ("Tesla T4", None, 8.1),
        ("Tesla V100-SXM2-16GB", None, 15.7),
        ("Tesla V100-PCIE-32GB", None, 14.0),
    ],
)
def test_a_device_has_the_peak_of_its_data_sheet_or_none(
    name: str, bf16: float | None, fp32: float | None
) -> None:
    for arithmetic, tera in (("bf16", bf16), ("fp32", fp32)):
        found = peak_flops(name, arithmetic)  # type: ignore[arg-type] # mypy takes it for any text
        assert found == (None if tera is None else pytest.approx(tera * 1e12))


@pytest.mark.parametrize(("name", "fp16"), [("Tesla V100S-PCIE-32GB", 130e12), ("Tesla T4", 65e12)])
def test_older_devices_are_fast_in_fp16_alone(name: str, fp16: float) -> None:
    assert peak_flops(name, "fp16") == fp16
    assert peak_flops(name, "tf32") is None


def test_fp32_on_tensor_cores_is_another_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")
    gpu = torch.device("cuda", 0)
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "ieee"
        assert peak_of(gpu, "fp32") == 19.5e12
        matmul.fp32_precision = "tf32"
        assert (peak_of(gpu, "fp32"), peak_of(gpu, "bf16")) == (156e12, 312e12)
    finally:
        matmul.fp32_precision = before


def test_a_cpu_has_no_peak() -> None:
    assert peak_of(torch.device("cpu"), "fp32") is None

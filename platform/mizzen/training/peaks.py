"""What a GPU can do at most, by its data sheet: the denominator of model FLOPs utilisation.

Dense figures: those with sparsity, which vendors print first, are twice as high and no training reaches them.
A device that is not in the table has no peak here, and no utilisation is shown for it; so has no CPU.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

TERA = 1e12

Arithmetic = Literal["fp32", "tf32", "bf16", "fp16"]


@dataclass(frozen=True)
class Peak:
    """Dense TFLOPS by arithmetic; None: the device does not have it."""

    fp32: float
    tf32: float | None
    bf16: float | None
    fp16: float


PEAKS: tuple[tuple[str, Peak], ...] = (
    (r"H200 NVL", Peak(fp32=60.0, tf32=417.5, bf16=835.5, fp16=835.5)),
    (r"H200", Peak(fp32=66.9, tf32=494.7, bf16=989.4, fp16=989.4)),
    (r"H100 NVL", Peak(fp32=60.0, tf32=417.5, bf16=835.5, fp16=835.5)),
    (r"H100 PCIe", Peak(fp32=51.2, tf32=378.0, bf16=756.0, fp16=756.0)),
    (r"H100", Peak(fp32=66.9, tf32=494.7, bf16=989.4, fp16=989.4)),
    (r"A100", Peak(fp32=19.5, tf32=156.0, bf16=312.0, fp16=312.0)),
    (r"A30", Peak(fp32=10.3, tf32=82.0, bf16=165.0, fp16=165.0)),
    (r"A10", Peak(fp32=31.2, tf32=62.5, bf16=125.0, fp16=125.0)),
    (r"L40S", Peak(fp32=91.6, tf32=183.0, bf16=362.05, fp16=362.05)),
    (r"L40", Peak(fp32=90.5, tf32=90.5, bf16=181.05, fp16=181.05)),
    (r"L4", Peak(fp32=30.3, tf32=60.0, bf16=121.0, fp16=121.0)),
    (r"V100S", Peak(fp32=16.4, tf32=None, bf16=None, fp16=130.0)),
    (r"V100-SXM\d", Peak(fp32=15.7, tf32=None, bf16=None, fp16=125.0)),
    (r"V100-PCIE", Peak(fp32=14.0, tf32=None, bf16=None, fp16=112.0)),
    (r"T4", Peak(fp32=8.1, tf32=None, bf16=None, fp16=65.0)),
)
"""By a pattern of the name that CUDA gives the device, as a word of its own; the first that fits counts."""


def peak_flops(device_name: str, arithmetic: Arithmetic) -> float | None:
    """Floating-point operations a second, or None if it is not known. A slice of a GPU (MIG) is not."""
    if "MIG" in device_name:
        return None
    for pattern, peak in PEAKS:
        if re.search(rf"(?<![\w]){pattern}(?![A-Za-z0-9])", device_name):
            tera: float | None = getattr(peak, arithmetic)
            return None if tera is None else tera * TERA
    return None


def peak_of(device: Any, precision: Literal["fp32", "bf16", "fp16"]) -> float | None:
    """The peak of a `torch.device` in the arithmetic that it uses for a run's precision."""
    if device.type != "cuda":
        return None
    import torch

    on_tensor_cores = precision == "fp32" and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return peak_flops(torch.cuda.get_device_name(device), "tf32" if on_tensor_cores else precision)

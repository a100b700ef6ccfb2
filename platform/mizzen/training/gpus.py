"""GPUs by the names that `mizzen plan --gpu` takes: memory, memory bandwidth, and how they reach each other.

What they can reckon stands in `peaks`. Figures are the vendors' (data sheets of NVIDIA's H100, H200, A100,
A30, A10, L40S, L40, L4, V100 and T4 products); memory is what `nvidia-smi` reports of such a card, which is
less than the name says where the memory corrects errors by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from mizzen.errors import InputError
from mizzen.training.peaks import Arithmetic, peak_flops

GIB = 2**30
GIGA = 1e9
RUNTIME_BYTES = int(1.5 * GIB)
"""Assumed: CUDA's context, its libraries' workspaces and NCCL's buffers, on each GPU."""
FRAGMENTATION = 0.05
"""Assumed: the share of the rest that lies between blocks of PyTorch's allocator."""
GPUS_A_NODE = 8


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU."""

    device: str
    """As CUDA names it, for `peaks`."""
    memory_mib: int
    memory_bandwidth: float
    """Gigabytes a second."""
    link: float
    """Gigabytes a second to another GPU of the node, in one direction: NVLink, or else PCI Express."""
    network: float
    """Gigabytes a second to GPUs of other nodes. Assumed: 400 Gb/s a GPU with NVLink, 100 Gb/s without."""

    @property
    def usable_bytes(self) -> int:
        """What a worker's tensors may take."""
        return int((self.memory_mib * 2**20 - RUNTIME_BYTES) * (1 - FRAGMENTATION))

    def flops(self, arithmetic: Arithmetic) -> float | None:
        """Its peak, or None if it does not have this arithmetic."""
        return peak_flops(self.device, arithmetic)

    def link_bytes_per_second(self, workers: int) -> float:
        """The slowest link among so many workers."""
        return (self.link if workers <= GPUS_A_NODE else min(self.link, self.network)) * GIGA


GPUS: dict[str, Gpu] = {
    "h200-141gb": Gpu("NVIDIA H200", 143_771, 4800, 450, 50),
    "h100-80gb": Gpu("NVIDIA H100 80GB HBM3", 81_559, 3350, 450, 50),
    "h100-94gb-nvl": Gpu("NVIDIA H100 NVL", 95_830, 3900, 300, 12.5),
    "h100-80gb-pcie": Gpu("NVIDIA H100 PCIe", 81_559, 2000, 64, 12.5),
    "a100-80gb": Gpu("NVIDIA A100-SXM4-80GB", 81_920, 2039, 300, 50),
    "a100-40gb": Gpu("NVIDIA A100-SXM4-40GB", 40_960, 1555, 300, 50),
    "a100-80gb-pcie": Gpu("NVIDIA A100 80GB PCIe", 81_920, 1935, 32, 12.5),
    "a30-24gb": Gpu("NVIDIA A30", 24_576, 933, 32, 12.5),
    "a10-24gb": Gpu("NVIDIA A10", 23_028, 600, 32, 12.5),
    "l40s-48gb": Gpu("NVIDIA L40S", 46_068, 864, 32, 12.5),
    "l40-48gb": Gpu("NVIDIA L40", 46_068, 864, 32, 12.5),
    "l4-24gb": Gpu("NVIDIA L4", 23_034, 300, 32, 12.5),
    "v100-32gb": Gpu("Tesla V100-SXM2-32GB", 32_768, 900, 150, 12.5),
    "v100-16gb": Gpu("Tesla V100-SXM2-16GB", 16_384, 900, 150, 12.5),
    "t4-16gb": Gpu("Tesla T4", 15_360, 320, 16, 12.5),
}

DEFAULT = "h100-80gb"
"""For a job on GPUs that names none."""


def gpu_of(name: str) -> Gpu:
    """The GPU by its name here, any case. Raises `InputError`."""
    found = GPUS.get(name.lower())
    if found is None:
        raise InputError(
            "no such GPU",
            saw=repr(name),
            allowed=", ".join(GPUS),
            remedy="See `mizzen plan --gpu list`.",
            field="gpu",
        )
    return found

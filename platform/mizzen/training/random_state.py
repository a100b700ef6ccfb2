"""A rank's random states (Python, NumPy, PyTorch, CUDA) as bytes, and back: dropout goes on where it stopped.

The bytes are a safetensors file. What a workload keeps in generators of its own is not in it.
"""

from __future__ import annotations

import json
import random
import struct
from typing import Any

import numpy as np

PYTHON, NUMPY, TORCH, CUDA, REST = "python", "numpy", "torch", "cuda", "rest"


def captured(device: Any) -> bytes:
    """The states of this process; of CUDA's that of `device` alone."""
    import torch
    from safetensors.torch import save

    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=False)
    tensors = {
        PYTHON: torch.tensor(words, dtype=torch.int64),
        NUMPY: torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
        TORCH: torch.get_rng_state(),
    }
    if device.type == "cuda":
        tensors[CUDA] = torch.cuda.get_rng_state(device)
    rest = {
        "version": version,
        "gauss": gauss,
        "numpy_position": int(numpy_state["state"]["pos"]),
        "numpy_has_gauss": int(numpy_state["has_gauss"]),
        "numpy_gauss": float(numpy_state["gauss"]),
    }
    content: bytes = save(tensors, metadata={REST: json.dumps(rest)})
    return content


def restore(content: bytes, device: Any) -> None:
    """Set the states of this process to what `captured` has written."""
    import torch
    from safetensors.torch import load

    tensors, rest = load(content), json.loads(_metadata(content)[REST])
    random.setstate((rest["version"], tuple(tensors[PYTHON].tolist()), rest["gauss"]))
    np.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": {
                "key": tensors[NUMPY].numpy().astype(np.uint32),
                "pos": rest["numpy_position"],
            },
            "has_gauss": rest["numpy_has_gauss"],
            "gauss": rest["numpy_gauss"],
        }
    )
    torch.set_rng_state(tensors[TORCH])
    if device.type == "cuda" and CUDA in tensors:
        torch.cuda.set_rng_state(tensors[CUDA], device)


def _metadata(content: bytes) -> dict[str, str]:
    """The texts in the header of a safetensors file: its length in 8 bytes, then JSON."""
    (length,) = struct.unpack("<Q", content[:8])
    found: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return found

"""ONNX Runtime behind the contract's `Runtime`: which execution provider, and sessions on it.

It never changes to another provider in silence: `auto` decides once, when the runtime is made, and a session
that does not get that provider is an error. It does not batch and does not know models.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from mizzen.errors import InputError, ServingError
from mizzen.workloads.contract import Arrays

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"


def cuda_devices() -> int:
    """How many CUDA devices the driver of this machine has; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def available_providers() -> list[str]:
    """Providers that can run here: built into ONNX Runtime, and for CUDA a device too."""
    built_in: list[str] = onnxruntime.get_available_providers()
    return [name for name in built_in if name != CUDA or cuda_devices() > 0]


class OnnxRuntime:
    """The contract's `Runtime`: opens ONNX files on one execution provider."""

    provider: str
    num_threads: int

    def __init__(self, provider: str = "auto", num_threads: int = 0) -> None:
        """`provider` is `auto` (CUDA where it works, else CPU) or a name such as `CPUExecutionProvider`.

        `cpu` and `cuda` are understood too. Raises `ServingError` if a demanded provider is not here,
        `InputError` for a negative `num_threads`.
        """
        if num_threads < 0:
            raise InputError(
                "num_threads is wrong", saw=num_threads, allowed="0 or more", field="num_threads"
            )
        available = available_providers()
        wanted = {"cpu": CPU, "cuda": CUDA}.get(provider, provider)
        if wanted == "auto":
            wanted = CUDA if CUDA in available else CPU
        if wanted not in available:
            raise ServingError(
                f"the execution provider {wanted} is not on this machine",
                saw=f"ONNX Runtime {onnxruntime.__version__}, {cuda_devices()} CUDA devices",
                allowed=", ".join(available),
                remedy="Demand another one, or install the extra that has it (mizzen[gpu] for CUDA).",
                field="provider",
            )
        if wanted == CUDA:
            # CUDA's libraries come with PyTorch's wheels, where the linker does not look.
            onnxruntime.preload_dlls()
        self.provider = wanted
        self.num_threads = num_threads

    def session(self, path: Path) -> OnnxSession:
        """A session for the ONNX file at `path`. Raises `ServingError` if it cannot be loaded."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.num_threads
        # Threads that spin while they wait take the core that reads the next requests: with them, 32
        # histories on 2 cores took 5.2 ms and 7.3 ms of CPU time, without them 4.3 and 4.6.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=[self.provider])
        except Exception as cause:
            # ONNX Runtime's exceptions have no common base but Exception.
            raise ServingError(
                f"{path} cannot be loaded on {self.provider}: {cause}",
                remedy="Export the model again with this version of Mizzen.",
            ) from None
        chosen = session.get_providers()[0]
        if chosen != self.provider:
            raise ServingError(
                f"ONNX Runtime did not load {path} on the provider that was asked for",
                saw=chosen,
                allowed=self.provider,
                remedy="Run `mizzen doctor`: the libraries of CUDA may be missing or of another version.",
            )
        return OnnxSession(session, self.provider)


class OnnxSession:
    """The contract's `Session`: one loaded graph; `run` may be called from threads."""

    def __init__(self, session: Any, provider: str) -> None:
        self._session = session
        self.provider = provider

    @cached_property
    def input_names(self) -> Sequence[str]:
        """Names of the graph's inputs, in order."""
        return tuple(value.name for value in self._session.get_inputs())

    @cached_property
    def output_names(self) -> Sequence[str]:
        """Names of the graph's outputs, in order."""
        return tuple(value.name for value in self._session.get_outputs())

    def run(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """Outputs by name. Raises `ServingError` if an input is missing or does not fit the graph."""
        missing = [name for name in self.input_names if name not in inputs]
        if missing:
            raise ServingError(
                "the model was called without some of its inputs",
                saw=", ".join(inputs) or "none",
                allowed=", ".join(self.input_names),
            )
        fed = {name: np.ascontiguousarray(inputs[name]) for name in self.input_names}
        try:
            values = self._session.run(None, fed)
        except Exception as cause:
            # ONNX Runtime's exceptions have no common base but Exception.
            shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in fed.items())
            raise ServingError(f"ONNX Runtime failed: {cause}", saw=shapes) from None
        return dict(zip(self.output_names, values, strict=True))

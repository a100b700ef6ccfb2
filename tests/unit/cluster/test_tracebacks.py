"""The line of a log that says why a program failed."""

from __future__ import annotations

import pytest

from mizzen.cluster.tracebacks import relevant

OURS = """\
rows: 100 read
error: the run ended without a checkpoint that was evaluated; saw /runs/x. Look there.
"""
CHAIN = """\
Traceback (most recent call last):
  File "/opt/lib/deepspeed/runtime/engine.py", line 301, in __init__
    self._configure(model)
  File "/opt/lib/deepspeed/runtime/config.py", line 812, in _check
    raise DeepSpeedConfigError("zero_optimization.stage 4 is not supported")
deepspeed.runtime.config.DeepSpeedConfigError: zero_optimization.stage 4 is not supported

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/app/train.py", line 3, in <module>
    main()
RuntimeError: training failed
"""
RAY = """\
2026-11-22 08:00:00,000 INFO worker.py:1 -- Connected
Traceback (most recent call last):
  File "/app/entry.py", line 10, in main
    ray.get(task)
ray.exceptions.RayTaskError(ValueError): ray::train_worker() (pid=71, ip=10.0.0.4)
  File "/opt/mizzen/training/loop.py", line 88, in run
    loss.backward()
ValueError: expected 3 columns, got 2
"""
EARLIER = """\
Traceback (most recent call last):
  File "/opt/x.py", line 1, in probe
OSError: harmless, tried again
step 1
Traceback (most recent call last):
  File "/opt/y.py", line 2, in step
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (OURS, "the run ended without a checkpoint that was evaluated; saw /runs/x. Look there."),
        (
            CHAIN,
            "deepspeed.runtime.config.DeepSpeedConfigError: zero_optimization.stage 4 is not supported"
            " (at runtime/config.py:812 in _check)",
        ),
        (RAY, "ValueError: expected 3 columns, got 2 (at training/loop.py:88 in run)"),
        (
            EARLIER,
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB (at opt/y.py:2 in step)",
        ),
        (
            "\x1b[36m(RayTrainWorker pid=12, ip=10.1.2.3)\x1b[0m NCCL error: unhandled system error",
            "NCCL error: unhandled system error",
        ),
        (
            'Traceback (most recent call last):\n  File "/a/b.py", line 1, in f\n'
            "mizzen.errors.NotFoundError: no version of 'm'; saw nothing. Train one.",
            "no version of 'm'; saw nothing. Train one.",
        ),
        ("all went well\nstep 2 of 3\n", ""),
        ("", ""),
    ],
    ids=["ours", "chained", "ray's", "the last counts", "a worker's prefix", "our class", "none", "empty"],
)
def test_the_line_that_matters_is_found(text: str, line: str) -> None:
    assert relevant(text) == line


def test_a_cut_off_log_still_tells_something() -> None:
    cut = "n 0x7f> at line 3\nRuntimeError: the queue was closed\nmore text"
    assert relevant(cut) == "RuntimeError: the queue was closed"

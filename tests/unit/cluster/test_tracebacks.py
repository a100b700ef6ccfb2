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
REPLICA = """\
The deployment failed to start 3 times in a row. This may be due to a problem with its constructor or \
initial health check failing. See controller logs for details. Retrying after 4 seconds. Error:
\x1b[36mray::ServeReplica:ratings:Endpoint.initialize_and_get_metadata()\x1b[39m (pid=81, ip=10.0.0.7)
  File "/usr/lib/python3.11/concurrent/futures/_base.py", line 449, in result
    return self.__get_result()
  File "/opt/ray/serve/_private/replica.py", line 1143, in initialize
    raise RuntimeError(traceback.format_exc()) from None
RuntimeError: Traceback (most recent call last):
  File "/opt/ray/serve/_private/replica.py", line 1120, in _initialize_impl
    self._user_callable_asgi_app = await self._user_callable_wrapper.initialize_callable()
  File "/opt/mizzen/store/store.py", line 201, in resolve
    raise NotFoundError(
mizzen.errors.NotFoundError: 'ratings' has no alias 'production'; saw none. Train it with `mizzen train`.
"""
HEADLESS = """\
ray::train_worker() (pid=71, ip=10.0.0.4)
  File "/opt/mizzen/training/loop.py", line 88, in run
    loss.backward()
ValueError: expected 3 columns, got 2
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
        (REPLICA, "'ratings' has no alias 'production'; saw none. Train it with `mizzen train`."),
        (HEADLESS, "ValueError: expected 3 columns, got 2 (at training/loop.py:88 in run)"),
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
    ids=[
        "ours",
        "chained",
        "ray's",
        "the last counts",
        "a replica's",
        "without a headline",
        "a worker's prefix",
        "our class",
        "none",
        "empty",
    ],
)
def test_the_line_that_matters_is_found(text: str, line: str) -> None:
    assert relevant(text) == line


def test_a_cut_off_log_still_tells_something() -> None:
    cut = "n 0x7f> at line 3\nRuntimeError: the queue was closed\nmore text"
    assert relevant(cut) == "RuntimeError: the queue was closed"

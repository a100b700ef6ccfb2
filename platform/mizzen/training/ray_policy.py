"""Our decisions told to Ray Train: whether workers are started again, and that SIGTERM is a notice.

`faults.Retries` decides. What Ray itself decides (machines that it drains, workers that it cannot place)
stays Ray's.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, ClassVar

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import WorkerCallback
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import PreemptionError, TrainingFailedError, WorkerGroupError

from mizzen.store.runs import EventKind
from mizzen.training.failures import failure_of
from mizzen.training.faults import Retries
from mizzen.training.mailbox import Happened
from mizzen.training.pulse import NOTICE
from mizzen.training.ray_scaling import RayScaling

ASK_TIMEOUT_S = 10.0


class RayFailures(DefaultFailurePolicy):  # type: ignore[misc] # Ray has no types
    """Ray Train's failure policy of a run. It lives in the process of Ray Train's controller."""

    def __init__(self, max_failures: int, mailbox: Any) -> None:
        # Ours counts the failures of workers: Ray's own count must not come first.
        super().__init__(FailureConfig(max_failures=-1))
        self._retries, self._mailbox = Retries(max_failures), mailbox

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """See Ray's `FailurePolicy`."""
        if isinstance(training_failed_error, PreemptionError):
            self._tell("node_lost", "a machine with workers of this run was taken away with notice")
            if self._forbidden():
                return FailureDecision.RAISE
        elif isinstance(training_failed_error, WorkerGroupError):
            failure = failure_of(training_failed_error)
            refused = self._forbidden() or self._retries.after(failure)
            if failure.kind != "notice":
                then = f"the run ends: {refused}" if refused else "the workers are started again"
                kind: EventKind = "node_lost" if failure.kind == "node" else "worker_failed"
                self._tell(kind, f"{failure.sentence}; {then}")
            if refused:
                return FailureDecision.RAISE
        decision: FailureDecision = super().make_decision(training_failed_error)
        return decision

    def _tell(self, kind: EventKind, text: str) -> None:
        self._mailbox.put.remote(Happened(kind, text))

    def _forbidden(self) -> str | None:
        """Why no workers may be started any more."""
        try:
            why: str | None = ray.get(self._mailbox.forbidden.remote(), timeout=ASK_TIMEOUT_S)
        except GetTimeoutError:
            return None  # the machine is busy
        except RayError:
            return "the process that began the run is gone"
        return why


class HeedSigterm(WorkerCallback):  # type: ignore[misc] # Ray has no types
    """SIGTERM lets a worker write a checkpoint before it ends; the second one ends it at once."""

    def after_init_train_context(self) -> None:
        """See Ray's `WorkerCallback`: in the worker's main thread, where signals can be handled."""
        before = signal.getsignal(signal.SIGTERM)

        def told(signum: int, frame: FrameType | None) -> None:
            if NOTICE.is_set() and callable(before):
                before(signum, frame)
            NOTICE.set()

        signal.signal(signal.SIGTERM, told)


class _WithPolicies(DataParallelTrainer):  # type: ignore[misc] # Ray has no types
    """A trainer whose failures and number of workers our policies judge; Ray has no setting for it.

    What nobody needs of what Ray Train starts beside the workers, a process each, it does not start.
    """

    _needless: ClassVar[tuple[type, ...]] = (DatasetsCallback,)
    """Workers read prepared files, never Ray Data."""

    def __init__(
        self, *arguments: Any, failures: RayFailures, scaling: RayScaling | None, **named: Any
    ) -> None:
        """`scaling` is None where the number of workers is fixed."""
        super().__init__(*arguments, **named)
        self._policies = {"failure_policy": failures, **({"scaling_policy": scaling} if scaling else {})}

    def _initialize_and_run_controller(self, **named: Any) -> Any:
        return super()._initialize_and_run_controller(**{**named, **self._policies})

    def _create_default_callbacks(self) -> list[Any]:
        found: list[Any] = super()._create_default_callbacks()
        return [each for each in found if not isinstance(each, self._needless)]


class AloneTrainer(_WithPolicies):
    """Workers that find each other by themselves, on a Ray that ends with this process and all it holds."""

    _needless = (DatasetsCallback, PlacementGroupCleanerCallback)


def cluster_trainer() -> Any:
    """The class for workers that Ray joins to PyTorch's process group.

    Made where it is asked for: Ray's imports PyTorch, and Ray Train's controller, which imports this module
    for its policies, has no use for that.
    """
    from ray.train.torch import TorchTrainer

    class ClusterTrainer(_WithPolicies, TorchTrainer):  # type: ignore[misc] # Ray has no types
        pass

    return ClusterTrainer

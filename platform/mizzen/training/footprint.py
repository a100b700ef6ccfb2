"""Bytes that a worker holds at each moment of a step, by what DeepSpeed 0.19.8 does under each ZeRO stage.

Weights, gradients, optimiser states, activations and buffers are reckoned for the moments at which one of
them is at its largest; the worker needs what the worst moment needs. The figures follow DeepSpeed's source
(`runtime/zero/stage_1_and_2.py`, `stage3.py`, `partition_parameters.py`, `fp16/unfused_optimizer.py`) and are
checked against real runs in `tests/integration/training/test_plan.py`.

It does not measure activations (`activations` does), and it does not know machines (`plan` does).
Legend: a value is one number of a parameter; its width is 4 bytes in fp32 and 2 in bf16 and fp16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Literal, Protocol

FP32_BYTES = 4
ADAM_BYTES = 8
"""Two moments of fp32 a value."""
ALLREDUCE_BUCKET = 500_000_000
"""Values that stage 0 reduces at a time; no option changes it."""
NVME_BUFFERS = 4
"""`offload_optimizer.buffer_count`: states that are in host memory on their way from and to a disk."""
PARAMETER_BUFFERS = 5
"""`offload_param.buffer_count`, by DeepSpeed's default; see `configuration.with_buffers`."""

Offload = Literal["none", "optimizer", "optimizer_and_parameters"]
Adam = Literal["single", "foreach", "fused"]
"""How a step is reckoned: tensor after tensor with two copies of each (PyTorch's default on CPUs), all at
once with one copy of all (its default on GPUs), or in place."""


class Moment(Protocol):
    """See `activations.Moment`."""

    @property
    def activation_bytes(self) -> int: ...  # as there

    @property
    def num_gradients(self) -> int: ...  # as there


def num_buffers(frozen_in_a_block: int) -> int:
    """Through how many buffers parameters come from a disk and go there.

    While activations of a block are reckoned again, DeepSpeed keeps all of it that is not trained.
    """
    return max(PARAMETER_BUFFERS, frozen_in_a_block + 2)


@dataclass(frozen=True)
class Parameters:
    """How many values each parameter of a model has; tied ones stand once."""

    trainable: tuple[int, ...]
    frozen: tuple[int, ...] = ()
    frozen_in_a_block: int = 0
    """How many are not trained in that of the repeated blocks that has the most."""

    @property
    def num_trainable(self) -> int:
        """Values that are trained."""
        return sum(self.trainable)

    @property
    def num_values(self) -> int:
        """All values."""
        return self.num_trainable + sum(self.frozen)

    @property
    def largest(self) -> int:
        """Values of the largest parameter."""
        return max((*self.trainable, *self.frozen))


@dataclass(frozen=True)
class Options:
    """What of DeepSpeed's `zero_optimization` decides over memory, in values, with its defaults."""

    reduce_bucket_size: int = 500_000_000
    overlap_comm: bool | None = None
    sub_group_size: int = 1_000_000_000
    stage3_prefetch_bucket_size: int = 50_000_000
    stage3_max_reuse_distance: int = 1_000_000_000
    stage3_param_persistence_threshold: int = 100_000

    @classmethod
    def of(cls, configuration: Mapping[str, Any]) -> Options:
        """From DeepSpeed's configuration."""
        section = configuration["zero_optimization"]
        known = {name: section[name] for name in cls.__dataclass_fields__ if name in section}
        numbers = {name: int(float(value)) for name, value in known.items() if name != "overlap_comm"}
        return cls(**numbers, overlap_comm=known.get("overlap_comm"))


@dataclass(frozen=True)
class Division:
    """How the states of a model are divided among workers."""

    stage: int
    offload: Offload
    workers: int
    value_bytes: int
    on_gpu: bool
    accumulates: bool = False
    """Whether a step has more than one micro-batch."""
    sums_in_fp32: bool = False
    """Whether gradients are added up in fp32 though the model has half precision."""
    to_disk: bool = False
    builds_in_fp32: bool = True
    """Whether each worker first holds the whole model in fp32: for want of a skeleton."""
    adam: Adam = "single"
    host_adam: Adam = "single"
    """The same where the optimiser is offloaded."""
    options: Options = Options()

    @property
    def sum_bytes(self) -> int:
        """The width of a gradient where it is added up."""
        return FP32_BYTES if self.sums_in_fp32 else self.value_bytes


@dataclass(frozen=True)
class Held:
    """What a worker holds at one moment, in bytes."""

    moment: str
    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    buffers: int = 0
    """Buckets of gradients on their way, parameters on their way, and copies that a step makes."""
    host: int = 0
    """In the machine's memory, if states are offloaded."""

    @property
    def device(self) -> int:
        """All but the host's."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.buffers


@dataclass(frozen=True)
class Footprint:
    """What a worker needs, in bytes."""

    moments: tuple[Held, ...]
    disk: int = 0

    @property
    def worst(self) -> Held:
        """The moment that decides, on the device."""
        return max(self.moments, key=lambda held: held.device)

    @property
    def host(self) -> int:
        """The most in the machine's memory."""
        return max(held.host for held in self.moments)

    @property
    def together(self) -> int:
        """The most where device and host are the same memory: a worker on CPUs."""
        return max(held.device + held.host for held in self.moments)

    def largest(self, kind: str) -> int:
        """The most of one kind, whenever that is."""
        return max(int(getattr(held, kind)) for held in self.moments)


def footprint(
    parameters: Parameters, moments: Sequence[Moment], entered_bytes: int, division: Division
) -> Footprint:
    """The bytes of one worker.

    `moments` are a micro-batch's (`activations.Activations`), `entered_bytes` what lived of it when its last
    layer began.
    """
    if division.stage == 0:
        return _whole(parameters, moments, division)
    if division.stage in (1, 2):
        return _optimizer_divided(parameters, moments, division)
    return _all_divided(parameters, moments, entered_bytes, division)


def _step_copies(adam: Adam, largest: int, total: int) -> int:
    """Bytes that AdamW takes for a while, over tensors of at most `largest` and together `total` values."""
    return {"single": 2 * FP32_BYTES * largest, "foreach": FP32_BYTES * total, "fused": 0}[adam]


def _built(parameters: Parameters, d: Division) -> list[Held]:
    """A model without a skeleton is built in fp32, on the host; a worker on CPUs has no other memory."""
    whole = Held("build", weights=FP32_BYTES * parameters.num_values)
    return [whole] if d.builds_in_fp32 and not d.on_gpu else []


def _whole(parameters: Parameters, moments: Sequence[Moment], d: Division) -> Footprint:
    """Stage 0: every worker holds everything."""
    n, width = parameters.num_trainable, d.value_bytes
    master_bytes = 0 if width == FP32_BYTES else FP32_BYTES * n
    base = Held("", weights=width * parameters.num_values, optimizer=master_bytes + ADAM_BYTES * n)
    micro = [
        replace(
            base,
            moment="micro-batch",
            gradients=width * (n if d.accumulates else at.num_gradients),
            activations=at.activation_bytes,
        )
        for at in moments
    ]
    full = replace(base, gradients=width * n)
    copies = _step_copies(d.adam, max(parameters.trainable), n)
    return Footprint(
        (
            *_built(parameters, d),
            *micro,
            replace(full, moment="reduction", buffers=width * min(n, ALLREDUCE_BUCKET)),
            # In 16 bits the step makes all gradients anew in fp32.
            replace(full, moment="step", buffers=master_bytes + copies),
        )
    )


def _optimizer_divided(parameters: Parameters, moments: Sequence[Moment], d: Division) -> Footprint:
    """Stages 1 and 2: optimiser states are divided, and at stage 2 gradients once they are reduced."""
    n, width, part = parameters.num_trainable, d.value_bytes, ceil(parameters.num_trainable / d.workers)
    bucket = d.options.reduce_bucket_size
    num_buckets = 2 if d.options.overlap_comm else 1
    in_use = min(n, bucket)
    offloads, largest = d.offload != "none", max(parameters.trainable)
    part_bytes = 0 if offloads else d.sum_bytes * part  # offloaded gradients leave the device at once
    base = Held("", weights=width * parameters.num_values)
    if offloads:
        # Weights and moments, their gradients in fp32, weights on their way back, the largest gradient.
        host = (2 * FP32_BYTES + ADAM_BYTES + width) * part + width * largest
        base = replace(base, host=host + (width * part if d.accumulates else 0), buffers=width * largest)
    else:
        base = replace(base, optimizer=(FP32_BYTES + ADAM_BYTES) * part)

    def bucket_bytes(num_values: int) -> int:
        # A GPU's memory is taken as a whole, a CPU's as far as it was written.
        filled = num_buckets * bucket if d.on_gpu else min(num_values, num_buckets * bucket)
        return width * filled if num_values else 0

    micro = []
    for at in moments:
        made, buffers = at.num_gradients, base.buffers
        if d.stage == 1:
            gradients = d.sum_bytes * (n if d.accumulates else made)
            buffers += bucket_bytes(made) if d.on_gpu else 0
        else:
            gradients = part_bytes if d.accumulates else 0
            buffers += bucket_bytes(made)
            if made >= bucket:  # one has been reduced: a copy of it, and this worker's part of all
                gradients, buffers = gradients + part_bytes, buffers + width * bucket
        micro.append(
            replace(
                base,
                moment="micro-batch",
                gradients=gradients,
                buffers=buffers,
                activations=at.activation_bytes,
            )
        )
    if d.stage == 1:
        on_the_way = d.sum_bytes // width * bucket_bytes(in_use) + part_bytes * (n > bucket)
        reduction = replace(base, gradients=d.sum_bytes * n, buffers=base.buffers + on_the_way)
    else:
        kept = part_bytes * ((n > bucket) + d.accumulates)
        reduction = replace(base, gradients=kept, buffers=base.buffers + bucket_bytes(n) + width * in_use)
    if offloads:
        step = replace(base, moment="step", host=base.host + _step_copies(d.host_adam, part, part))
    else:
        flat = FP32_BYTES * part
        # This worker's gradients as they came, in one piece, and in fp32; then what AdamW takes.
        pieces = 0 if d.sums_in_fp32 else 2 * width * part + (flat if width != FP32_BYTES else 0)
        buffers = max(pieces, flat + _step_copies(d.adam, part, part)) - d.sum_bytes * part
        step = replace(base, moment="step", gradients=d.sum_bytes * part, buffers=buffers)
    return Footprint((*_built(parameters, d), *micro, replace(reduction, moment="reduction"), step))


def _all_divided(
    parameters: Parameters, moments: Sequence[Moment], entered_bytes: int, d: Division
) -> Footprint:
    """Stage 3: parameters are divided too, and gathered for the layers that are about to run."""
    o, n, width = d.options, parameters.num_trainable, d.value_bytes
    part = ceil(n / d.workers)
    small = sum(
        v for v in (*parameters.trainable, *parameters.frozen) if v <= o.stage3_param_persistence_threshold
    )
    divided = parameters.num_values - small
    in_use = min(n, o.reduce_bucket_size)
    # A layer is let go unless it is used again within the reuse distance, which at the turn from forward to
    # backward is so for the last half of it.
    ahead = min(divided, o.stage3_prefetch_bucket_size + parameters.largest)
    near = o.stage3_max_reuse_distance // 2
    keeps_all = divided <= near
    gathered = divided if keeps_all else min(divided, near + ahead)
    on_device = Held("", weights=width * (ceil(divided / d.workers) + small))
    host = disk = 0
    if d.offload == "optimizer_and_parameters":
        away = width * ceil(divided / d.workers)
        on_device = replace(on_device, weights=width * small)
        # Besides the buffers: one for a group of parameters that the optimiser has changed, each whole.
        whole_group = min(divided, d.workers * o.sub_group_size)
        buffers = num_buffers(parameters.frozen_in_a_block) * ceil(parameters.largest / d.workers)
        host += width * (buffers + min(n, whole_group)) if d.to_disk else away
        disk += away if d.to_disk else 0
    states = (FP32_BYTES + ADAM_BYTES) * part
    if d.offload == "none":
        on_device = replace(on_device, optimizer=states, gradients=d.sum_bytes * part)
    else:
        sub_group = min(part, o.sub_group_size)
        host += d.sum_bytes * part + FP32_BYTES * (sub_group if d.to_disk else part)
        host += NVME_BUFFERS * FP32_BYTES * sub_group if d.to_disk else states
        disk += states if d.to_disk else 0
    bucket = width * (o.reduce_bucket_size if d.on_gpu else in_use)
    base = replace(on_device, host=host, buffers=bucket)
    copy = width * in_use
    whole, on_the_way = width * gathered, width * ahead
    first = replace(
        base,
        moment="forward",
        activations=entered_bytes,
        weights=base.weights + whole,
        buffers=bucket + on_the_way,
    )
    micro = [
        replace(
            base,
            moment="micro-batch",
            activations=at.activation_bytes,
            weights=base.weights + whole,
            buffers=bucket
            + (0 if keeps_all else on_the_way)
            + (copy if at.num_gradients >= o.reduce_bucket_size else 0),
        )
        for at in moments
    ]
    last = base.weights + min(whole, width * divided if keeps_all else on_the_way)
    reduction = replace(base, moment="reduction", weights=last, buffers=bucket + copy)
    # AdamW goes through the values in groups, each with its gradients in fp32.
    group = min(part, o.sub_group_size)
    if d.offload == "none":
        step_bytes = FP32_BYTES * group + _step_copies(d.adam, group, group)
        step = replace(base, moment="step", buffers=bucket + step_bytes)
    else:
        step = replace(base, moment="step", host=host + _step_copies(d.host_adam, group, group))
    return Footprint((*_built(parameters, d), first, *micro, reduction, step), disk)

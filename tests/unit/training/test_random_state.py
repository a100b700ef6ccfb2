"""Random numbers go on where they stopped."""

import random
from typing import Any

import numpy as np
import torch

from mizzen.training import random_state

CPU = torch.device("cpu")


def numbers() -> list[Any]:
    return [
        random.random(), random.gauss(0, 1), np.random.rand(3).tolist(), float(np.random.randn()),
        torch.rand(3).tolist(), torch.nn.functional.dropout(torch.ones(64)).tolist(),
    ]  # fmt: skip


def test_what_follows_a_state_is_the_same_after_it_was_restored() -> None:
    before = random_state.captured(CPU)
    try:
        random.gauss(0, 1)  # leaves a second number for the next call, in Python and in NumPy
        np.random.randn()
        state = random_state.captured(CPU)
        expected = numbers()
        numbers()
        random_state.restore(state, CPU)
        assert numbers() == expected
        random_state.restore(before, CPU)
        assert random_state.captured(CPU) == before
    finally:
        random_state.restore(before, CPU)

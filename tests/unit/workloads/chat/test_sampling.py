from __future__ import annotations

from collections import Counter

import numpy as np

from mizzen.workloads.chat.sampling import Sampler, Sampling

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))


def draws(sampling: Sampling, num: int = 4000) -> Counter[int]:
    sampler = Sampler(sampling)
    return Counter(sampler.pick(LOGITS) for _ in range(num))


def test_temperature_zero_takes_the_likeliest() -> None:
    assert draws(Sampling(1, temperature=0), 5) == {0: 5}


def test_temperature_one_draws_by_the_models_own_probabilities() -> None:
    counts = draws(Sampling(1, seed=1))
    assert np.allclose([counts[i] / 4000 for i in range(4)], [0.5, 0.3, 0.15, 0.05], atol=0.03)


def test_a_high_temperature_flattens_and_a_low_one_sharpens() -> None:
    assert draws(Sampling(1, seed=1, temperature=2))[3] > draws(Sampling(1, seed=1))[3]
    assert draws(Sampling(1, seed=1, temperature=0.1))[0] > 3900


def test_top_p_keeps_the_token_that_crosses_the_border_and_none_behind() -> None:
    assert set(draws(Sampling(1, seed=1, top_p=0.6))) == {0, 1}
    assert set(draws(Sampling(1, seed=1, top_p=0.4))) == {0}
    assert set(draws(Sampling(1, seed=1, top_p=0.0))) == {0}


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    def sequence(seed: int) -> list[int]:
        sampler = Sampler(Sampling(1, seed=seed))
        return [sampler.pick(LOGITS) for _ in range(50)]

    assert sequence(3) == sequence(3)
    assert sequence(3) != sequence(4)


def test_penalties_push_back_what_was_generated_and_leave_the_logits_alone() -> None:
    sampler = Sampler(Sampling(1, temperature=0, frequency_penalty=0.4, presence_penalty=0.4))
    before = LOGITS.copy()
    assert [sampler.pick(LOGITS) for _ in range(3)] == [0, 1, 0]
    assert np.array_equal(before, LOGITS)

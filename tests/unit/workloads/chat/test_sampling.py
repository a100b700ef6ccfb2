from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mizzen.workloads.chat.sampling import Sampler, Sampling, log_probabilities

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


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9), (1.5, 0.5)])
def test_a_large_vocabulary_is_drawn_from_as_the_softmax_says(temperature: float, top_p: float) -> None:
    logits_V = np.random.default_rng(0).normal(0, 3, 5000).astype(np.float32)
    probabilities_V = np.exp(logits_V.astype(np.float64) / temperature)
    probabilities_V /= probabilities_V.sum()
    order = np.argsort(-probabilities_V)
    kept = int(np.searchsorted(np.cumsum(probabilities_V[order]), top_p)) + 1
    nucleus = set(order[:kept].tolist())
    sampler = Sampler(Sampling(1, temperature=temperature, top_p=top_p, seed=5))
    drawn = Counter(sampler.pick(logits_V) for _ in range(4000))
    assert set(drawn) <= nucleus
    best = int(order[0])
    share = probabilities_V[best] / probabilities_V[order[:kept]].sum()
    assert drawn[best] / 4000 == pytest.approx(share, abs=0.03)


def test_bias_moves_a_token_up_or_out() -> None:
    assert draws(Sampling(1, temperature=0, logit_bias={3: 100.0}), 3) == {3: 3}
    assert 0 not in draws(Sampling(1, seed=1, logit_bias={0: -100.0}), 500)


def test_log_probabilities_are_the_models_own_whatever_is_sampled() -> None:
    logits_V = np.random.default_rng(1).normal(0, 4, 1000).astype(np.float32)
    exact_V = logits_V.astype(np.float64)
    exact_V -= np.log(np.exp(exact_V).sum())
    (token, own), *best = log_probabilities(logits_V, 7, 5)
    assert (token, own) == (7, pytest.approx(exact_V[7], abs=1e-5))
    assert [t for t, _ in best] == np.argsort(-exact_V)[:5].tolist()
    assert [value for _, value in best] == pytest.approx(sorted(exact_V)[:-6:-1], abs=1e-5)
    assert log_probabilities(logits_V, 7, 0) == [(7, own)]

"""The network sees the past only, and its losses are what the papers say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mizzen.workloads.recommendation.model import Ensemble, SASRec

NUM_ITEMS = 30


def network(num_negatives: int | None = None, history_dropout: float = 0.0, seed: int = 1) -> SASRec:
    torch.manual_seed(seed)
    model = SASRec(
        NUM_ITEMS,
        hidden_size=16,
        num_blocks=2,
        num_heads=2,
        max_length=8,
        dropout=0.0,
        history_dropout=history_dropout,
        num_negatives=num_negatives,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def history(*items: int) -> Tensor:
    return torch.tensor([items], dtype=torch.int64)


def test_a_later_item_does_not_change_what_was_known_before() -> None:
    model = network()
    one, other = model.encode(history(3, 4, 5, 6)), model.encode(history(3, 4, 5, 7))
    torch.testing.assert_close(one[:, :3], other[:, :3])
    assert not torch.allclose(one[:, 3], other[:, 3])


def test_every_earlier_item_counts() -> None:
    model = network()
    scores = model(history(3, 4, 5, 6))
    for changed in (history(9, 4, 5, 6), history(3, 9, 5, 6), history(3, 4, 9, 6), history(4, 3, 5, 6)):
        assert not torch.allclose(scores, model(changed), atol=1e-4)


def test_padding_does_not_change_the_scores() -> None:
    model = network()
    alone = model(history(3, 4, 5))
    for padded in (history(0, 3, 4, 5), history(0, 0, 0, 0, 0, 3, 4, 5)):
        torch.testing.assert_close(model(padded), alone)
    with torch.no_grad():
        model.items.weight[0] += 10.0
    torch.testing.assert_close(model(history(0, 0, 3, 4, 5)), alone)


def test_nothing_but_padding_gives_finite_scores() -> None:
    assert network()(torch.zeros(3, 8, dtype=torch.int64)).isfinite().all()


def test_a_row_does_not_depend_on_the_others_in_the_batch() -> None:
    model = network()
    together = model(torch.tensor([[0, 3, 4], [7, 8, 9]]))
    torch.testing.assert_close(together[:1], model(history(3, 4)))
    torch.testing.assert_close(together[1:], model(history(7, 8, 9)))
    assert together.shape == (2, NUM_ITEMS)


def test_the_full_loss_is_the_mean_over_positions_that_have_a_target() -> None:
    model = network()
    items, target = torch.tensor([[0, 3, 4], [7, 8, 9]]), torch.tensor([[0, 4, 5], [8, 9, 1]])
    logits = model.encode(items) @ model.items.weight[1:].T
    by_hand = [
        -F.log_softmax(logits[row, step], dim=-1)[target[row, step] - 1]
        for row, step in [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    ]
    torch.testing.assert_close(model(items, target), torch.stack(by_hand).mean())


def test_the_sampled_loss_comes_near_the_full_one_with_many_negatives() -> None:
    """With the logQ correction, the sampled softmax estimates the full one."""
    items, target = torch.tensor([[0, 3, 4], [7, 8, 9]]), torch.tensor([[0, 4, 5], [8, 29, 1]])
    full = network()(items, target)
    # Accidental hits are left out, so negatives stand for all items but the target, as they should.
    sampled = torch.stack([network(20_000)(items, target) for _ in range(3)]).mean()
    assert sampled.item() == pytest.approx(full.item(), abs=0.05)


def test_negatives_are_expected_as_often_as_they_are_drawn() -> None:
    model = network()
    expected = model._log_expected(torch.arange(1, NUM_ITEMS + 1), 1).exp()
    assert expected.sum().item() == pytest.approx(1.0)
    assert expected[0].item() == pytest.approx(math.log(2) / math.log(NUM_ITEMS + 1))


def test_items_are_hidden_in_training_only() -> None:
    items, target = torch.randint(1, NUM_ITEMS + 1, (4, 8)), torch.randint(1, NUM_ITEMS + 1, (4, 8))
    plain, hiding = network(), network(history_dropout=0.5)
    torch.testing.assert_close(hiding(items), plain(items))
    torch.testing.assert_close(hiding(items, target), plain(items, target))
    hiding.train()
    torch.testing.assert_close(hiding(items), plain(items))
    assert not torch.allclose(hiding(items, target), plain(items, target), atol=1e-4)


def test_hidden_items_are_the_share_that_was_asked_for_and_leave_no_trace() -> None:
    """A step sees the loss of the history with 0 for each hidden item, and all of its targets."""
    items, target = torch.randint(1, NUM_ITEMS + 1, (64, 8)), torch.randint(1, NUM_ITEMS + 1, (64, 8))
    model = network(history_dropout=0.25).train()
    torch.manual_seed(7)
    loss = model(items, target)
    torch.manual_seed(7)
    hidden = torch.rand(items.shape) < 0.25
    assert 0.15 < hidden.float().mean() < 0.35
    logits = model.encode(items.masked_fill(hidden, 0)) @ model.items.weight[1:].T
    torch.testing.assert_close(loss, F.cross_entropy(logits.flatten(0, 1), target.flatten() - 1))


def test_an_ensemble_scores_with_the_mean_of_its_members_and_trains_each_on_its_own_loss() -> None:
    members = [network(seed=1), network(seed=2), network(seed=3)]
    together = Ensemble(members)
    items, target = torch.tensor([[0, 3, 4], [7, 8, 9]]), torch.tensor([[0, 4, 5], [8, 9, 1]])
    torch.testing.assert_close(together(items), sum(member(items) for member in members) / 3)
    loss = together(items, target)
    torch.testing.assert_close(loss, sum(member(items, target) for member in members) / 3)
    loss.backward()
    together_grad = members[1].positions.weight.grad
    alone = network(seed=2)
    alone(items, target).backward()
    assert together_grad is not None and alone.positions.weight.grad is not None
    torch.testing.assert_close(together_grad, alone.positions.weight.grad / 3)


def test_an_ensemble_ranks_by_the_mean_of_the_log_probabilities() -> None:
    members = [network(seed=1), network(seed=2)]
    items = torch.tensor([[0, 3, 4], [7, 8, 9]])
    log_probability = sum(F.log_softmax(member(items), dim=-1) for member in members)
    torch.testing.assert_close(Ensemble(members)(items).argsort(-1), log_probability.argsort(-1))


def test_padding_does_not_change_the_scores_of_an_ensemble() -> None:
    model = Ensemble([network(seed=1), network(seed=2)])
    torch.testing.assert_close(model(history(0, 0, 3, 4, 5)), model(history(3, 4, 5)))


@pytest.mark.parametrize(
    ("num_negatives", "history_dropout", "num_members"), [(None, 0.0, 1), (64, 0.0, 1), (None, 0.2, 2)]
)
def test_it_learns_a_rule_that_can_be_learned(
    num_negatives: int | None, history_dropout: float, num_members: int
) -> None:
    """After item n comes n + 1: after some steps the loss is far below that of guessing."""
    torch.manual_seed(0)
    model = Ensemble(
        [
            SASRec(
                NUM_ITEMS,
                hidden_size=16,
                num_blocks=1,
                num_heads=1,
                max_length=8,
                dropout=0.1,
                history_dropout=history_dropout,
                num_negatives=num_negatives,
            )
            for _ in range(num_members)
        ]
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    start = torch.randint(1, NUM_ITEMS + 1, (256, 1))
    walk = (start + torch.arange(9) - 1) % NUM_ITEMS + 1
    for step in range(60):
        rows = walk[torch.arange(32) + 32 * (step % 8)]
        optimizer.zero_grad()
        model(rows[:, :-1], rows[:, 1:]).backward()
        optimizer.step()
    best = model.eval()(walk[:64, :-1]).argmax(-1) + 1
    assert (best == walk[:64, -1]).float().mean() > 0.9

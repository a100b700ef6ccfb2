"""Bins of training values, what falls into them, and the population stability index over them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizzen.errors import IntegrityError
from mizzen.store import distribution
from mizzen.store.distribution import FILE, MIN_VALUES, PRIOR, Distribution


def made(values: Any) -> Distribution:
    found = distribution.of(values)
    assert found is not None
    return found


def counted(trained: Distribution, values: Any) -> list[int]:
    counts = [0] * len(trained.bins)
    for value in values:
        counts[trained.bin_of(value)] += 1
    return counts


def test_many_values_fall_into_ten_bins_of_a_tenth_each() -> None:
    trained = made(np.arange(1000.0))
    assert trained.edges == tuple(float(100 * i - 1) for i in range(1, 10))
    assert trained.counts == (100,) * 10
    assert [trained.bin_of(value) for value in (-7.0, 0, 99, 99.5, 100, 999, 1e9)] == [0, 0, 0, 1, 1, 9, 9]


def test_few_values_have_a_bin_each_and_others_lie_beyond() -> None:
    trained = made([1.0] * 50 + [3.0] * 60 + [5.0] * 10)
    assert trained.counts == (0, 50, 60, 10, 0)
    assert [trained.bin_of(value) for value in (0, 1, 3, 5, 7)] == [0, 1, 2, 3, 4]


def test_where_all_values_are_equal_any_other_is_seen() -> None:
    trained = made([16] * 200)
    assert trained.counts == (0, 200, 0)
    assert [trained.bin_of(value) for value in (15, 16, 17)] == [0, 1, 2]
    assert trained.psi(counted(trained, [16] * 500)) < 0.01
    assert trained.psi(counted(trained, [15] * 500)) > 5


def test_a_value_that_many_have_makes_one_bin_of_several_deciles() -> None:
    values = [0.0] * 700 + list(np.linspace(1, 30, 300))
    trained = made(values)
    assert sum(trained.counts) == 1000 and trained.counts[:2] == (0, 700)
    assert all(count == 100 for count in trained.counts[2:])
    assert trained.bin_of(-1) == 0 and trained.bin_of(0) == 1 and trained.bin_of(0.5) == 2


def test_values_that_are_none_have_a_bin_of_their_own() -> None:
    trained = made([*range(300), math.nan, math.inf, -math.inf])
    assert trained.num_missing == 3 and sum(trained.counts) == 300
    assert trained.bins[-1] == "missing"
    assert {trained.bin_of(value) for value in (math.nan, math.inf, -math.inf)} == {len(trained.bins) - 1}
    assert trained.expected[-1] == pytest.approx(3 / 303)


def test_the_index_is_what_it_is_by_hand() -> None:
    trained = Distribution(edges=(0.0,), counts=(50, 50), num_missing=0)
    e, missing = 0.5 / 1.0001, 0.0001 / 1.0001
    assert trained.expected == pytest.approx((e, e, missing))
    o = [(75 + 5 * e) / 105, (25 + 5 * e) / 105, 5 * missing / 105]
    by_hand = (
        (o[0] - e) * math.log(o[0] / e)
        + (o[1] - e) * math.log(o[1] / e)
        + (o[2] - missing) * math.log(o[2] / missing)
    )
    assert PRIOR == 5
    assert trained.psi([75, 25, 0]) == pytest.approx(by_hand)
    # The usual formula, without smoothing: (0.75 - 0.5) ln 1.5 + (0.25 - 0.5) ln 0.5.
    assert trained.psi([7500, 2500, 0]) == pytest.approx(0.25 * math.log(1.5) - 0.25 * math.log(0.5), 0.01)


@pytest.mark.parametrize("kind", ["normal", "geometric", "constant", "mostly none"])
def test_the_same_distribution_is_below_a_tenth_and_a_shifted_one_above_a_quarter(kind: str) -> None:
    random = np.random.default_rng(7)
    draw = {
        "normal": lambda n, moved: random.normal(float(moved), 1, n),
        "geometric": lambda n, moved: random.geometric(0.15 if moved else 0.4, n).astype(float),
        "constant": lambda n, moved: np.full(n, 3.0 + moved),
        "mostly none": lambda n, moved: np.where(
            random.random(n) < (0.3 if moved else 0.7), np.nan, random.random(n)
        ),
    }[kind]
    trained = made(draw(2000, False))
    for size in (500, 2000):
        assert trained.psi(counted(trained, draw(size, False))) < 0.1
        assert trained.psi(counted(trained, draw(size, True))) > 0.25


@given(st.lists(st.one_of(st.floats(allow_nan=True), st.integers(0, 3).map(float)), max_size=300))
def test_every_value_has_exactly_one_bin_and_the_shares_add_up(values: list[float]) -> None:
    trained = distribution.of(values)
    known = [value for value in values if math.isfinite(value)]
    if trained is None:
        assert len(known) < MIN_VALUES
        return
    assert list(trained.edges) == sorted(set(trained.edges))
    assert counted(trained, values) == [*trained.counts, trained.num_missing]
    assert sum(trained.expected) == pytest.approx(1) and min(trained.expected) > 0
    assert trained.psi([*trained.counts, trained.num_missing]) < 0.02


def test_what_is_written_is_read_again_and_always_the_same_bytes(tmp_path: Path) -> None:
    features = {"b": np.random.default_rng(0).normal(size=500).tolist(), "a": [1] * 100, "few": [1.0] * 99}
    distribution.write(features, tmp_path)
    first = (tmp_path / FILE).read_bytes()
    assert distribution.read(tmp_path) == {"a": made(features["a"]), "b": made(features["b"])}
    distribution.write(dict(reversed(features.items())), tmp_path)
    assert (tmp_path / FILE).read_bytes() == first


def test_without_features_nothing_is_written_and_nothing_read(tmp_path: Path) -> None:
    distribution.write({"few": [1.0]}, tmp_path)
    assert not (tmp_path / FILE).exists()
    assert distribution.read(tmp_path) == {}


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "[1]",
        '{"a": {"edges": [2.0, 1.0], "counts": [1, 1, 1]}}',
        '{"a": {"edges": [1.0], "counts": [1, 1, 1]}}',
        '{"a": {"edges": [1.0], "counts": [1, 1], "more": 1}}',
    ],
)
def test_another_file_of_that_name_is_told(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(IntegrityError, match=r"input_distribution\.json of a version cannot be read"):
        distribution.read(tmp_path)


def test_the_file_says_bins_and_counts_and_nothing_of_the_values(tmp_path: Path) -> None:
    distribution.write({"length": range(1000)}, tmp_path)
    content = json.loads((tmp_path / FILE).read_text())
    assert set(content["length"]) == {"edges", "counts", "num_missing"}

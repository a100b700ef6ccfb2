"""Amounts as Kubernetes writes them."""

from __future__ import annotations

import pytest

from mizzen.cluster.quantities import amount, larger
from mizzen.errors import InputError


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500m", 0.5),
        ("2", 2),
        ("1.5Gi", 1.5 * 2**30),
        ("3k", 3000),
        ("1e3", 1000),
        ("128Mi", 2**27),
        ("0", 0),
    ],
)
def test_an_amount_is_a_number(text: str, number: float) -> None:
    assert float(amount(text)) == number


@pytest.mark.parametrize("text", ["", "lots", "1 Gi", "-1", "1Xi", "1GiB"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="500m"):
        amount(text)


def test_the_larger_of_two_keeps_its_own_words() -> None:
    assert larger("1500m", "1") == "1500m"
    assert larger("1Gi", "1000Mi") == "1Gi"
    assert larger("900Mi", "1Gi") == "1Gi"

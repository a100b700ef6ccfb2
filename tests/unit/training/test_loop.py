"""When a run stops early."""

from mizzen.training.job import EarlyStopping
from mizzen.training.loop import Best
from mizzen.workloads.contract import QualityMetric


def stops(values: list[float], *, higher: bool, patience: int, margin: float = 0.0) -> list[bool]:
    stopping = EarlyStopping(patience=patience, min_improvement=margin)
    best = Best(QualityMetric("q", higher_is_better=higher), stopping)
    return [best.update({"q": value}) for value in values]


def test_a_run_stops_when_quality_has_not_improved_for_its_patience() -> None:
    assert stops([0.1, 0.3, 0.2, 0.25], higher=True, patience=2) == [False, False, False, True]
    assert stops([3.0, 2.0, 2.5, 1.0, 1.5], higher=False, patience=2) == [False] * 5


def test_an_improvement_below_the_margin_does_not_count() -> None:
    assert stops([1.0, 0.99], higher=False, patience=1, margin=0.1) == [False, True]


def test_without_early_stopping_a_run_goes_on() -> None:
    best = Best(QualityMetric("q", higher_is_better=True), None)
    assert not any(best.update({"q": -value}) for value in range(10))

"""What is checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mizzen.errors import GateError, ServeFileError
from mizzen.serving.pins import check
from mizzen.serving.spec import App
from mizzen.store.manifest import GateReport, Manifest, ParityResult


@pytest.fixture
def manifest() -> Callable[[bool], Manifest]:
    def make(passed: bool) -> Manifest:
        parity = ParityResult(
            probe="batch 2", max_abs=0.5, mean_abs=0.1, tolerance=1.0 if passed else 0.1, passed=passed
        )
        gate = GateReport(parity=(parity,), quality=None, precision="fp32", provider="CPU", passed=passed)
        return Manifest.model_construct(name="films", version=3, workload="forecasting", gate=gate)

    return make


def test_a_version_whose_gate_did_not_pass_is_not_served(manifest: Callable[[bool], Manifest]) -> None:
    check(App(name="a", model="films@3"), manifest(True))
    with pytest.raises(GateError, match=r"films@3 did not pass its gate.*FAILED"):
        check(App(name="a", model="films@3"), manifest(False))


def test_options_that_the_workload_does_not_know_are_refused(manifest: Callable[[bool], Manifest]) -> None:
    with pytest.raises(ServeFileError, match="app a"):
        check(App(name="a", model="films", options={"no-such-option": 1}), manifest(True))

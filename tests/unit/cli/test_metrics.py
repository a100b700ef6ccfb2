"""`mizzen metrics` on stdout: the series, and the list for Prometheus's file discovery."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from typer.testing import CliRunner

from mizzen import targets
from mizzen.cli import app
from mizzen.errors import InputError


def run(*options: str) -> str:
    return CliRunner().invoke(app, ["metrics", *options], catch_exceptions=False).stdout


def test_once_prints_the_series_in_either_format() -> None:
    assert "\nmizzen_disk_free_bytes " in run("--once")
    families = text_string_to_metric_families(run("--once", "--openmetrics"))
    assert {"mizzen_disk_free_bytes", "mizzen_build_info"} <= {family.name for family in families}


def test_the_target_list_is_printed_and_mended(mizzen_home: Path) -> None:
    list_file = mizzen_home / "run" / targets.FILE
    list_file.parent.mkdir()
    list_file.write_text('[{"targets": ["127.0.0.1:1"], "labels": {}}]')  # of one that was killed
    assert json.loads(run("--targets")) == []
    assert json.loads(list_file.read_text()) == []
    with targets.shown(mizzen_home / "metrics", mizzen_home / "run") as port:
        assert json.loads(run("--targets"))[0]["targets"] == [f"127.0.0.1:{port}"]


def test_a_format_for_nobody_is_refused_with_what_to_do() -> None:
    with pytest.raises(InputError, match=r"--once.*Accept header"):
        run("--openmetrics")

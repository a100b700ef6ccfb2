"""The real embedding model, from its package to answers: on words of this repository."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mizzen import settings
from mizzen.cli import app
from mizzen.serving.retrievers import Retrievers
from mizzen.settings import Settings
from mizzen.store.runtime import OnnxRuntime
from mizzen.store.store import ModelStore

REPOSITORY = Path(__file__).resolve().parents[4]

QUESTIONS = """question,document,text
Which columns does a table of purchases need?,docs/README.md,columns for user
Where is all state kept on my machine?,docs/README.md,MIZZEN_HOME
Are there pickle files among the models?,docs/README.md,No pickle
How do I add a kind of model from my own package?,docs/CONTRIBUTING.md,entry-point
Why was k-quant chosen for int8?,docs/CONTRIBUTING.md,k-quant
How does a replica notice that an alias has moved?,docs/CONTRIBUTING.md,follows its alias itself
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents to build from, and a home that shares the fetched sample with other runs."""
    folder = tmp_path_factory.mktemp("minilm")
    (folder / "docs").mkdir()
    for name in ("README.md", "CONTRIBUTING.md"):
        shutil.copy(REPOSITORY / name, folder / "docs")
    (folder / "docs" / "empty.txt").touch()
    (folder / "questions.csv").write_text(QUESTIONS)
    shared = REPOSITORY / ".mizzen" / "datasets"
    shared.mkdir(parents=True, exist_ok=True)
    (folder / "home").mkdir()
    (folder / "home" / "datasets").symlink_to(shared)
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("MIZZEN_HOME", str(place / "home"))
    monkeypatch.chdir(place)
    settings.current.cache_clear()
    return settings.current()


def build(*more: str) -> Result:
    return CliRunner().invoke(app, ["knowledge", "build", "docs", "--name", "kb", "--json", *more])


def built(*more: str) -> dict[str, Any]:
    result = build(*more)
    assert result.exit_code == 0, result.output
    summary: dict[str, Any] = json.loads(result.stdout)
    return summary


@pytest.fixture
def first(here: Settings, said: dict[str, Any]) -> dict[str, Any]:
    """What the first build of the module said; it is made once."""
    if not said:
        said.update(built("--questions", "questions.csv"))
    return said


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    return {}


def test_a_build_measures_gates_and_publishes(first: dict[str, Any], here: Settings) -> None:
    assert (first["version"], first["changed"]) == (1, True)
    assert first["documents"] == {"read": 3, "kept": 2, "dropped": {"document that cannot be read": 1}}
    assert first["left_out"] == ["docs/empty.txt is empty"]
    assert first["work"] == {"embedded": first["chunks"], "kept": 0, "removed": 0}
    assert first["questions"] == 6
    # Six questions: one that is missed costs a sixth. Words of a question hardly stand in its passage.
    assert first["quality"]["recall@5"] >= 5 / 6
    assert first["gate"]["passed"]
    assert max(result["max_abs"] for result in first["gate"]["parity"]) < 1e-5
    lineage = ModelStore(here.store_url).resolve("kb@production").lineage
    assert lineage.data_report["work"] == first["work"]
    assert lineage.job["data"]["paths"] == ["docs"]
    assert "usearch" in lineage.libraries


def test_a_build_of_the_same_publishes_nothing(first: dict[str, Any]) -> None:
    again = built("--questions", "questions.csv")
    assert (again["version"], again["changed"], again["digest"]) == (1, False, first["digest"])
    assert again["work"] == {"embedded": 0, "kept": first["chunks"], "removed": 0}


def test_int8_is_judged_by_recall_and_shows_with_its_quality(first: dict[str, Any]) -> None:
    made = built("--questions", "questions.csv", "--precision", "int8", "--alias", "")
    assert made["version"] == 2
    assert made["work"]["embedded"] == 0
    assert made["gate"]["quality"]["metric"] == "recall@5"
    shown = CliRunner().invoke(app, ["models", "show", "kb@2"])
    assert "recall@5" in shown.stdout


def test_a_retriever_finds_what_a_question_means(first: dict[str, Any], here: Settings) -> None:
    opened = Retrievers(ModelStore(here.store_url), here.cache_dir, OnnxRuntime("cpu", 1))("kb@1")
    best = opened.search("Where is all state kept on my machine?", 5)
    assert any("MIZZEN_HOME" in passage.text for passage in best)
    assert 0.2 < best[0].score < 1
    assert opened.search("How do I bake bread?", 1)[0].score < best[0].score
    assert opened.count_tokens(["pickle files"]) == 5


def test_what_is_wrong_with_the_command_is_said(here: Settings) -> None:
    small = build("--chunk-tokens", "8")
    assert small.exit_code != 0
    assert "chunk_tokens" in str(small.exception)
    nowhere = build("nowhere")
    assert "no such file or folder" in str(nowhere.exception)

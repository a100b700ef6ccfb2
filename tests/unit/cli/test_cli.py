"""The verbs: help with an example each, exit codes, JSON, and errors without tracebacks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MIZZEN = Path(sys.executable).with_name("mizzen")
VERBS = [
    ["quickstart"],
    ["train"],
    ["serve"],
    ["reload"],
    ["doctor"],
    ["status"],
    ["try"],
    ["logs"],
    ["metrics"],
    ["version"],
    ["audit"],
    *(["keys", verb] for verb in ("create", "list", "revoke")),
    ["data", "fetch"],
    ["data", "list"],
    *(["jobs", verb] for verb in ("list", "show", "logs", "cancel", "delete")),
    *(["runs", verb] for verb in ("list", "show", "compare", "tensorboard")),
    *(["models", verb] for verb in ("list", "show", "verify", "alias", "export", "import")),
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MIZZEN, *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_explains_each_verb_with_an_example(verb: list[str]) -> None:
    shown = run(*verb, "--help")
    assert shown.returncode == 0
    assert f"Example: mizzen {' '.join(verb)}" in " ".join(shown.stdout.split())


@pytest.mark.parametrize("what", ["a file", "a link to nowhere"])
def test_a_home_that_cannot_be_written_is_named_with_what_to_do(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    if what == "a file":
        home.touch()
    else:
        home.mkdir()
        (home / "datasets").symlink_to(tmp_path / "nowhere" / "else")
    monkeypatch.setenv("MIZZEN_HOME", str(home))
    done = run("data", "fetch", "movielens-100k")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"Its folder is {home} (MIZZEN_HOME)" in done.stderr


def test_help_names_the_exit_codes() -> None:
    text = " ".join(run("--help").stdout.split())
    assert "2 wrong input" in text
    assert "4 gate refused" in text


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["train", "absent.yaml"], 2, "no such file"),
        (["models", "show", "nothing"], 3, "nothing"),
        (["models", "show", "NO@@"], 2, "lower-case"),
        (["models", "alias", "nothing", "1", "production"], 3, "nothing"),
        (["models", "import", "absent.tar"], 2, "absent.tar"),
        (["data", "fetch", "nothing"], 3, "movielens-100k"),
        (["serve"], 3, "mizzen train"),
        (["serve", "absent.yaml"], 2, "no such file"),
        (["reload"], 3, "mizzen serve"),
        (["models", "frobnicate"], 2, "frobnicate"),
        (["jobs", "show", "nothing"], 3, "mizzen jobs list"),
        (["jobs", "logs", "nothing"], 3, "mizzen jobs list"),
        (["jobs", "cancel", "nothing"], 3, "mizzen jobs list"),
        (["runs", "show", "nothing"], 3, "mizzen runs list"),
        (["runs", "compare", "a", "a"], 2, "two different runs"),
        (["jobs", "list", "--namespace", "a"], 2, "--on kubernetes"),
        (["jobs", "list", "--on", "mars"], 2, "kubernetes"),
        (["status", "--on", "ray"], 2, "serve status"),
        (["train", "jobs/forecasting.yaml", "--follow"], 2, "--on kubernetes or ray"),
        (["train", "jobs/forecasting.yaml", "--image", "a"], 2, "--on kubernetes"),
    ],
)
def test_a_wrong_call_says_why_and_exits_with_its_code(arguments: list[str], code: int, said: str) -> None:
    done = run(*arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_version_can_be_read_by_scripts() -> None:
    found = json.loads(run("version", "--json").stdout)
    assert {"mizzen", "python", "torch", "ray", "deepspeed"} <= found.keys()


def test_an_empty_store_lists_nothing() -> None:
    assert json.loads(run("models", "list", "--json").stdout) == []
    assert "whole" in run("models", "verify").stdout


def test_doctor_finds_this_machine_fit() -> None:
    done = run("doctor", "--json")
    findings = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert findings["store"]["state"] == "ok"
    assert findings["ONNX Runtime"]["state"] == "ok"
    assert findings["ingress"]["state"] == "ok"
    missing = [finding for finding in findings.values() if finding["state"] == "missing"]
    assert done.returncode == (1 if missing else 0), missing


def test_doctor_names_a_store_that_cannot_be_written_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MIZZEN_STORE", f"file://{tmp_path / 'file' / 'store'}")
    done = run("doctor", "--json")
    store = next(f for f in json.loads(done.stdout) if f["what"] == "store")
    assert done.returncode == 1
    assert store["state"] == "missing"
    assert "MIZZEN_STORE" in store["remedy"]

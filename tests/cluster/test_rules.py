"""Rules: promtool checks them and plays cases that must fire and cases that must not; alerts have runbooks.

The cases stand in `promtool/*.yml`, in promtool's own words. Whether the series exist is asked in
`test_monitoring.py`; whether a running Mizzen has data for them, in `tests/integration/observability`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import promql_parser
import pytest
import typer
import yaml

from mizzen.cli import app

if TYPE_CHECKING:
    from conftest import Chart, PrometheusTools

REPOSITORY = Path(__file__).resolve().parents[2]
CASES = sorted((Path(__file__).parent / "promtool").glob("*.yml"))
PLAIN = REPOSITORY / "deploy" / "monitoring" / "rules"
RUNBOOKS = REPOSITORY / "docs" / "runbooks"
GENERATOR = REPOSITORY / "helm" / "observability" / "rules.py"
EVERYTHING = (
    'apps=[{"name":"a","model":"a@production"}]',
    'ingress={"enabled":true,"tls":[{"secretName":"a","hosts":["a.example"]}]}',
    "monitoring.prometheusRule.enabled=true",
)


def promtool(tools: PrometheusTools, *arguments: str | Path) -> None:
    """Run promtool, which must be content."""
    done = subprocess.run(
        [tools.promtool, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def generate(*arguments: str | Path) -> None:
    """Run the generator, which must be content."""
    done = subprocess.run(
        [sys.executable, GENERATOR, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def groups(file: Path) -> list[dict[str, Any]]:
    """The groups of a plain rule file."""
    found: list[dict[str, Any]] = yaml.safe_load(file.read_text())["groups"]
    return found


@pytest.fixture(scope="module")
def of_chart(chart: Chart) -> list[dict[str, Any]]:
    """The groups of a release `mizzen` in the namespace `ml`."""
    found: list[dict[str, Any]] = chart.render(settings=EVERYTHING).one("PrometheusRule")["spec"]["groups"]
    return found


@pytest.fixture(scope="module")
def played(of_chart: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the cases, and in `rules` the plain files beside what only a cluster has."""
    folder = tmp_path_factory.mktemp("promtool")
    shutil.copytree(PLAIN, folder / "rules")
    cluster = [group for group in of_chart if group["name"].startswith("mizzen-kubernetes")]
    (folder / "rules" / "kubernetes.yml").write_text(yaml.safe_dump({"groups": cluster}))
    for file in CASES:
        case = yaml.safe_load(file.read_text())
        used = [folder / name for name in case["rule_files"]]
        # Else promtool takes any order, and what is recorded is now and then an evaluation late.
        case["group_eval_order"] = [group["name"] for path in used for group in groups(path)]
        (folder / file.name).write_text(yaml.safe_dump(case))
    return folder


# --- the files ------------------------------------------------------------------------------------


def test_rule_files_are_what_the_generator_makes() -> None:
    generate("--check")


def test_promtool_accepts_what_a_laptop_and_what_a_cluster_get(
    prometheus_tools: PrometheusTools, of_chart: list[dict[str, Any]], tmp_path: Path
) -> None:
    released = tmp_path / "released.yml"
    released.write_text(yaml.safe_dump({"groups": of_chart}))
    promtool(prometheus_tools, "check", "rules", released, *sorted(PLAIN.glob("*.yml")))


def test_a_laptop_has_the_cluster_s_rules_but_for_those_that_only_a_cluster_can_have(
    of_chart: list[dict[str, Any]],
) -> None:
    def names(found: list[dict[str, Any]]) -> set[str]:
        return {rule.get("alert") or rule["record"] for group in found for rule in group["rules"]}

    plain = {name for file in PLAIN.glob("*.yml") for name in names(groups(file))}
    only = [group for group in of_chart if group["name"].startswith("mizzen-kubernetes")]
    assert plain | names(only) == names(of_chart)
    assert not plain & names(only)
    assert "$" not in "".join(rule["expr"] for group in of_chart for rule in group["rules"])


def test_times_can_be_scaled_so_that_a_test_sees_an_alert_within_seconds(
    prometheus_tools: PrometheusTools, tmp_path: Path
) -> None:
    generate("--time-scale", str(1 / 60), "--output", tmp_path)
    promtool(prometheus_tools, "check", "rules", *sorted(tmp_path.glob("*.yml")))
    for file in PLAIN.glob("*.yml"):
        for before, after in zip(groups(file), groups(tmp_path / file.name), strict=True):
            for one, other in zip(before["rules"], after["rules"], strict=True):
                assert one.keys() == other.keys()
                assert {**one, "expr": "", "for": ""} == {**other, "expr": "", "for": ""}
                scaled = [seconds(text) / 60 for text in re.findall(r"\[(\w+)\]", one["expr"])]
                assert [seconds(text) for text in re.findall(r"\[(\w+)\]", other["expr"])] == scaled
                assert seconds(other.get("for", "0s")) == seconds(one.get("for", "0s")) / 60


def seconds(duration: str) -> float:
    """A duration of one unit."""
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h|d)", duration).groups()  # type: ignore[union-attr] # it matches
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit]


# --- the cases ------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", CASES, ids=[file.stem for file in CASES])
def test_alerts_fire_when_they_must_and_only_then(
    file: Path, played: Path, prometheus_tools: PrometheusTools
) -> None:
    promtool(prometheus_tools, "test", "rules", played / file.name)


def expectations() -> Iterator[tuple[str, bool]]:
    """Each alert of which a case says something, and whether it says that it fires."""
    for file in CASES:
        for case in yaml.safe_load(file.read_text())["tests"]:
            for asked in case.get("alert_rule_test", []):
                yield asked["alertname"], bool(asked["exp_alerts"])
            for asked in case.get("promql_expr_test", []):
                for sample in asked["exp_samples"]:
                    yield from ((name, True) for name in re.findall(r'alertname="(\w+)"', sample["labels"]))
                if not asked["exp_samples"]:
                    yield from ((name, False) for name in re.findall(r'alertname="(\w+)"', asked["expr"]))


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_must_not(
    of_chart: list[dict[str, Any]],
) -> None:
    known = set(alerts(of_chart))
    said = set(expectations())
    assert {name for name, fires in said if fires} == known
    assert {name for name, fires in said if not fires} == known


# --- runbooks -------------------------------------------------------------------------------------


def alerts(found: list[dict[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """All alerts by name."""
    return {rule["alert"]: rule for group in found for rule in group["rules"] if "alert" in rule}


PAGES = sorted(file for file in RUNBOOKS.glob("*.md") if file.name != "README.md")


def test_each_alert_has_a_page_and_each_page_an_alert(of_chart: list[dict[str, Any]]) -> None:
    known = alerts(of_chart)
    assert {page.stem for page in PAGES} == set(known)
    for name, rule in known.items():
        assert (REPOSITORY / rule["annotations"]["runbook_url"]) == RUNBOOKS / f"{name}.md"


def test_the_index_lists_each_page_with_its_severity(of_chart: list[dict[str, Any]]) -> None:
    listed = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \| (\w+) \|", (RUNBOOKS / "README.md").read_text(), re.M)
    assert all(shown == linked for shown, linked, _ in listed)
    assert {name: severity for name, _, severity in listed} == {
        name: rule["labels"]["severity"] for name, rule in alerts(of_chart).items()
    }


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_page_says_what_it_means_where_to_look_what_to_do_and_when_it_is_over(
    page: Path, of_chart: list[dict[str, Any]]
) -> None:
    text = page.read_text()
    assert text.startswith(f"# {page.stem}\n\n{alerts(of_chart)[page.stem]['labels']['severity'].title()}. ")
    headings = re.findall(r"^## (.*)$", text, re.M)
    assert headings == ["Look", "Likely causes", "What to do", "It is over when"]
    for query in re.findall(r"```promql\n(.*?)```", text, re.S):
        assert promql_parser.parse(query)
    for other in {*re.findall(r"\bMizzen[A-Z]\w+", text), *re.findall(r"\((\w+)\.md\)", text)}:
        assert (RUNBOOKS / f"{other}.md").is_file(), f"{page.name} speaks of {other}"


def test_commands_on_the_pages_exist() -> None:
    root = typer.main.get_command(app)
    asked = {
        tuple(words.split())
        for page in PAGES
        for words in re.findall(r"(?:^|`)mizzen((?: [a-z]+)+)", page.read_text(), re.M)
    }
    assert len(asked) >= 10
    for words in asked:
        command: Any = root
        for word in words:
            if not hasattr(command, "commands"):
                break  # an argument
            assert word in command.commands, f"mizzen {' '.join(words)}"
            command = command.commands[word]


def test_options_of_commands_on_the_pages_exist() -> None:
    root: Any = typer.main.get_command(app)
    pages = [page.read_text() for page in PAGES]
    asked = {
        " ".join(line.split())
        for text in pages
        for line in (*re.findall(r"^mizzen [^#\n]*", text, re.M), *re.findall(r"`(mizzen [^`]*)`", text))
        if " --" in line
    }
    assert len(asked) >= 5
    for line in asked:
        words, command = line.split()[1:], root
        while words and words[0] in getattr(command, "commands", ()):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_dashboards_on_the_pages_exist() -> None:
    titles = {
        re.search(r'^ "title": "(.*)",$', file.read_text(), re.M)[1]  # type: ignore[index] # each has one
        for file in (REPOSITORY / "helm" / "mizzen" / "dashboards").glob("*.json")
    }
    named = {
        name
        for page in PAGES
        for name in re.findall(r"\*(Mizzen [^*]+)\*", " ".join(page.read_text().split()))
    }
    assert named and named <= titles

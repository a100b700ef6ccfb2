"""`deploy/monitoring/`: each file is read by the program that it is for, and they agree with each other.

Grafana and the chart kube-prometheus-stack are not here: what they are given is compared with what their
documents and our chart say. `tests/integration/observability` runs Prometheus and Alertmanager with these
files.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from tests.conftest import PrometheusTools

    from conftest import Chart, Rendered

REPOSITORY = Path(__file__).resolve().parents[2]
MONITORING = REPOSITORY / "deploy" / "monitoring"
COMPOSE = REPOSITORY / ".tools" / "docker-compose"
HOME = "/srv/mizzen"
PASSWORD = {"GRAFANA_ADMIN_PASSWORD": "for this test"}


def read(file: str) -> Any:
    """A YAML file of the folder."""
    return yaml.safe_load((MONITORING / file).read_text())


def succeeds(*command: str | Path) -> str:
    """What a command that must succeed says."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- Prometheus and Alertmanager ------------------------------------------------------------------


def test_prometheus_reads_its_file_and_every_rule(prometheus_tools: PrometheusTools) -> None:
    said = succeeds(prometheus_tools.promtool, "check", "config", MONITORING / "prometheus.yml")
    for rules in (MONITORING / "rules").glob("*.yml"):
        assert str(rules) in said


def test_there_are_rules(prometheus_tools: PrometheusTools) -> None:
    files = list((MONITORING / "rules").glob("*.yml"))
    assert files
    succeeds(prometheus_tools.promtool, "check", "rules", *files)


def test_alertmanager_reads_its_file(prometheus_tools: PrometheusTools) -> None:
    succeeds(prometheus_tools.amtool, "check-config", MONITORING / "alertmanager.yml")


@pytest.mark.parametrize("name", ["on-call", "team", "mail", "webhook"])
def test_a_receiver_is_valid_once_its_comment_is_taken_off(
    prometheus_tools: PrometheusTools, tmp_path: Path, name: str
) -> None:
    lines = (MONITORING / "alertmanager.yml").read_text().splitlines()
    start = lines.index(f"  # - name: {name}")
    own = [line.replace("  # ", "  ", 1) for line in _until_blank(lines[start:])]
    file = tmp_path / "alertmanager.yml"
    text = "\n".join([*lines, *own]).replace("receiver: nobody", f"receiver: {name}")
    file.write_text(text)
    assert "2 receivers" in succeeds(prometheus_tools.amtool, "check-config", file)


def _until_blank(lines: list[str]) -> list[str]:
    end = next((number for number, line in enumerate(lines) if not line.strip()), len(lines))
    return lines[:end]


@pytest.mark.parametrize(("severity", "receiver"), [("critical", "on-call"), ("warning", "nobody")])
def test_what_is_critical_can_go_to_somebody_else(
    prometheus_tools: PrometheusTools, tmp_path: Path, severity: str, receiver: str
) -> None:
    config = read("alertmanager.yml")
    config["receivers"].append({"name": "on-call"})
    config["route"]["routes"][0]["receiver"] = "on-call"
    file = tmp_path / "alertmanager.yml"
    file.write_text(yaml.safe_dump(config))
    words = ("config", "routes", "test", f"--config.file={file}", f"severity={severity}")
    assert succeeds(prometheus_tools.amtool, *words).split()[0] == receiver


def test_alerts_that_silence_others_exist_and_so_do_the_others() -> None:
    files = [yaml.safe_load(file.read_text()) for file in (MONITORING / "rules").glob("*.yml")]
    alerts = {rule.get("alert") for file in files for group in file["groups"] for rule in group["rules"]}
    named = [
        matcher.split('"')[1]
        for rule in read("alertmanager.yml")["inhibit_rules"]
        for matcher in (*rule["source_matchers"], *rule["target_matchers"])
    ]
    assert len(named) == 4
    assert set(named) <= alerts


# --- docker compose -------------------------------------------------------------------------------


def compose(*arguments: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Docker compose on our file, with these variables alone."""
    command = [str(COMPOSE), "--file", str(MONITORING / "compose.yaml"), "config", *arguments]
    environ = {"PATH": os.environ["PATH"], "HOME": HOME, **environ}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services as docker compose understands them."""
    assert COMPOSE.is_file(), f"{COMPOSE} is not there: `make .tools/.installed` fetches it"
    done = compose(environ=PASSWORD)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)["services"]
    return found


def test_compose_has_nothing_to_object_to(services: dict[str, Any]) -> None:
    assert compose("--quiet", environ=PASSWORD).stderr == ""
    assert set(services) == {"prometheus", "alertmanager", "grafana"}


def test_without_a_password_grafana_does_not_start() -> None:
    done = compose("--quiet", environ={})
    assert done.returncode != 0
    assert "GRAFANA_ADMIN_PASSWORD" in done.stderr


def test_containers_may_do_little(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["user"].split(":")[0] not in ("", "0", "root"), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name


def test_images_are_pinned(services: dict[str, Any]) -> None:
    for name, service in services.items():
        tag = service["image"].partition(":")[2]
        assert tag.count(".") == 2, f"{name}: {service['image']}"


def test_they_reach_this_machine_s_loopback_and_listen_there_alone(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service["network_mode"] == "host"
        assert "ports" not in service
    for name in ("prometheus", "alertmanager"):
        [address] = [word for word in services[name]["command"] if "web.listen-address" in word]
        assert address.partition("=")[2].startswith("127.0.0.1:")
    assert "--cluster.listen-address=" in services["alertmanager"]["command"]
    assert services["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"


def test_what_is_mounted_exists_and_cannot_be_written(services: dict[str, Any]) -> None:
    for service in services.values():
        for volume in service["volumes"]:
            if volume["type"] != "bind":
                continue
            assert volume["read_only"], volume
            source = Path(volume["source"])
            assert source == Path(HOME, ".mizzen", "run") or source.exists(), volume


def test_mizzen_s_home_can_be_elsewhere() -> None:
    done = compose(environ={**PASSWORD, "MIZZEN_HOME": "/data/mizzen"})
    assert "source: /data/mizzen/run" in done.stdout


def test_programs_are_told_of_files_that_are_mounted(services: dict[str, Any]) -> None:
    for name in ("prometheus", "alertmanager"):
        [file] = [word for word in services[name]["command"] if word.startswith("--config.file=")]
        assert mounted(services[name], file.partition("=")[2]) == MONITORING / f"{name}.yml"


def test_prometheus_finds_targets_and_rules_beside_its_file(services: dict[str, Any]) -> None:
    config = read("prometheus.yml")
    [mizzen] = [job for job in config["scrape_configs"] if job["job_name"] == "mizzen"]
    [targets] = mizzen["file_sd_configs"][0]["files"]
    folder = PurePosixPath("/etc/prometheus")
    assert mounted(services["prometheus"], str(folder / targets)) == Path(
        HOME, ".mizzen/run/prometheus-targets.json"
    )
    [rules] = config["rule_files"]
    assert mounted(services["prometheus"], str(folder / rules)) == MONITORING / "rules" / "*.yml"


def test_addresses_in_files_are_those_where_programs_listen(services: dict[str, Any]) -> None:
    listens = {
        name: next(word for word in services[name]["command"] if "web.listen-address" in word).partition("=")[
            2
        ]
        for name in ("prometheus", "alertmanager")
    }
    config = read("prometheus.yml")
    assert config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] == [listens["alertmanager"]]
    sources = read("grafana/provisioning/datasources/mizzen.yaml")["datasources"]
    assert {source["type"]: source["url"] for source in sources} == {
        name: f"http://{address}" for name, address in listens.items()
    }
    assert "--enable-feature=exemplar-storage" in services["prometheus"]["command"]


def mounted(service: dict[str, Any], path: str) -> Path:
    """The file of this machine that a path in the container is."""
    for volume in service["volumes"]:
        if volume["type"] == "bind" and PurePosixPath(path).is_relative_to(volume["target"]):
            return Path(volume["source"]) / PurePosixPath(path).relative_to(volume["target"])
    raise AssertionError(f"{path} is not mounted")


# --- Grafana --------------------------------------------------------------------------------------

DATA_SOURCE_KEYS = {"name", "uid", "type", "access", "url", "isDefault", "editable", "jsonData"}
PROVIDER_KEYS = {
    *("name", "folder", "type", "allowUiUpdates", "disableDeletion", "updateIntervalSeconds", "options"),
}
"""Keys in Grafana's documentation of provisioning, those that we use: it ignores what it does not know."""


def test_grafana_is_given_data_sources_with_keys_that_it_knows() -> None:
    content = read("grafana/provisioning/datasources/mizzen.yaml")
    assert content.keys() == {"apiVersion", "datasources"}
    assert content["apiVersion"] == 1
    for source in content["datasources"]:
        assert source.keys() <= DATA_SOURCE_KEYS
        assert source["editable"] is False
    assert [source["name"] for source in content["datasources"] if source.get("isDefault")] == ["Prometheus"]


def test_grafana_takes_rates_over_intervals_that_fit_the_scrapes() -> None:
    source = read("grafana/provisioning/datasources/mizzen.yaml")["datasources"][0]
    assert source["jsonData"]["timeInterval"] == read("prometheus.yml")["global"]["scrape_interval"]


def test_dashboards_come_from_the_chart(services: dict[str, Any], chart: Chart) -> None:
    content = read("grafana/provisioning/dashboards/mizzen.yaml")
    assert content.keys() == {"apiVersion", "providers"}
    [provider] = content["providers"]
    assert provider.keys() <= PROVIDER_KEYS
    variable = provider["options"]["path"].removeprefix("$")
    folder = services["grafana"]["environment"][variable]
    assert mounted(services["grafana"], folder) == chart.path / "dashboards"
    provisioning = "/etc/grafana/provisioning"
    assert mounted(services["grafana"], provisioning) == MONITORING / "grafana" / "provisioning"


# --- kube-prometheus-stack ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def monitored(chart: Chart) -> Rendered:
    """A release with all that the stack is to read."""
    kinds = ("podMonitor", "prometheusRule", "dashboards")
    apps = 'apps=[{"name":"a","model":"a@production"}]'
    return chart.render(settings=[apps, *(f"monitoring.{kind}.enabled=true" for kind in kinds)])


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector of Kubernetes selects these labels."""
    expressions = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in expressions), "the only operator that we use"
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(one["key"]) in one["values"] for one in expressions
    )


def test_the_stack_selects_our_monitor_and_rules_in_any_namespace(monitored: Rendered) -> None:
    spec = read("kube-prometheus-stack-values.yaml")["prometheus"]["prometheusSpec"]
    for kind, key in (("PodMonitor", "podMonitor"), ("PrometheusRule", "rule")):
        assert selects(spec[f"{key}Selector"], monitored.one(kind)["metadata"]["labels"])
        assert spec[f"{key}NamespaceSelector"] == {}
    # Its own rules carry this label; without them there would be no alerts about the cluster itself.
    assert selects(spec["ruleSelector"], {"app.kubernetes.io/part-of": "kube-prometheus-stack"})
    assert not selects(spec["ruleSelector"], {"app.kubernetes.io/part-of": "something-else"})


def test_grafana_s_sidecar_finds_our_dashboards(monitored: Rendered) -> None:
    sidecar = read("kube-prometheus-stack-values.yaml")["grafana"]["sidecar"]["dashboards"]
    boards = [m for m in monitored.of("ConfigMap") if any(key.endswith(".json") for key in m["data"])]
    labels = [one["metadata"]["labels"] for one in boards]
    assert labels
    assert all(one[sidecar["label"]] == sidecar["labelValue"] for one in labels)
    assert sidecar["searchNamespace"] == "ALL"


def test_the_stack_reads_as_often_as_the_monitor_says(monitored: Rendered) -> None:
    spec = read("kube-prometheus-stack-values.yaml")["prometheus"]["prometheusSpec"]
    endpoints = monitored.one("PodMonitor")["spec"]["podMetricsEndpoints"]
    assert {endpoint["interval"] for endpoint in endpoints} == {spec["scrapeInterval"]}


def test_the_network_policy_lets_the_stack_s_namespace_in(chart: Chart) -> None:
    rendered = chart.render(
        settings=['apps=[{"name":"a","model":"a@production"}]', "networkPolicy.enabled=true"]
    )
    [policy] = [m for m in rendered.of("NetworkPolicy") if m["metadata"]["name"].endswith("-metrics")]
    [rule] = policy["spec"]["ingress"]
    allowed = [one["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for one in rule["from"]]
    commands = (MONITORING / "kube-prometheus-stack-values.yaml").read_text()
    assert all(f"--namespace {namespace} " in commands for namespace in allowed)


def test_alerts_take_the_same_routes_on_a_cluster(prometheus_tools: PrometheusTools, tmp_path: Path) -> None:
    there = read("kube-prometheus-stack-values.yaml")["alertmanager"]["config"]
    here = read("alertmanager.yml")
    named = yaml.safe_load(yaml.safe_dump(there).replace("'null'", "nobody"))
    assert named["route"] == here["route"]
    assert named["inhibit_rules"] == here["inhibit_rules"]
    file = tmp_path / "alertmanager.yml"
    file.write_text(yaml.safe_dump(there))
    succeeds(prometheus_tools.amtool, "check-config", file)

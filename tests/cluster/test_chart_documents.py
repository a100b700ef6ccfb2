"""The chart's README and schema are what `values.yaml` says, and every value in it does something.

Whether a value does the right thing is for the other tests.
"""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from jsonschema import Draft7Validator

from mizzen.serving.spec import App

if TYPE_CHECKING:
    from conftest import Chart, Rendered

REFERENCE = Path(__file__).resolve().parents[2] / "helm" / "reference.py"
WITHOUT_EFFECT = {"global", "http"}
"""Accepted because others hand them to a chart; their comments say so."""

# Values with which as much as possible is made; a value that matters only without some of them, or with
# others, names them here by its section.
MOST: Mapping[str, Any] = {
    "apps": [{"name": "a", "model": "a@production", "replicas": {"min": 2, "max": 4}}],
    "store.existingSecret": "store",
    # Generated ones are different each time.
    "auth.existingSecret": "keys",
    "ray.tokenAuth.existingSecret": "token",
    "serving.autoscaling.enabled": True,
    "serving.workerGroups": [{"name": "cpu"}],
    "serving.worker.minReplicas": 2,
    "serving.worker.maxReplicas": 3,
    "ingress.enabled": True,
    "ingress.hosts": ["models.example.com"],
    "httpRoute.enabled": True,
    "httpRoute.parentRefs": [{"name": "gateway"}],
    "monitoring.podMonitor.enabled": True,
    "monitoring.prometheusRule.enabled": True,
    "monitoring.dashboards.enabled": True,
    "networkPolicy.egress.restricted": True,
    "tracing.endpoint": "http://collector:4318",
}
INSTEAD: Mapping[str, Mapping[str, Any]] = {
    "auth.keyNames": {"auth.existingSecret": ""},
    "auth.source": {"auth.existingSecret": ""},
    "gpuImage": {"serving.worker.gpus": 1},
    "monitoring.podMonitor.raySeries": {},
    "monitoring.serviceMonitor": {
        "monitoring.podMonitor.enabled": False,
        "monitoring.serviceMonitor.enabled": True,
    },
    "nameOverride": {},
    "serving.faultTolerance.redis": {
        "serving.faultTolerance.mode": "redis",
        "serving.faultTolerance.redis.address": "redis:6379",
        "serving.faultTolerance.redis.existingSecret": "redis",
    },
    "serving.faultTolerance.rocksdb": {"serving.faultTolerance.mode": "rocksdb"},
    "serving.faultTolerance.rocksdb.claimName": {
        "serving.faultTolerance.mode": "rocksdb",
        "serving.upgrade.strategy": "None",
    },
    "serving.gpuResource": {"serving.worker.gpus": 1},
    "serving.upgrade": {
        "serving.upgrade.strategy": "NewClusterWithIncrementalUpgrade",
        "serving.upgrade.gatewayClassName": "gateway",
        "ingress.enabled": False,
        "httpRoute.enabled": False,
    },
    "serving.upgrade.clusterDeletionDelaySeconds": {},
    "serving.upgrade.strategy": {},
    "tests.existingSecret": {"auth.source": "store", "auth.existingSecret": ""},
}
ALONG: Mapping[str, Mapping[str, Any]] = {
    "auth.allowAnonymous": {"auth.enabled": False},
    "auth.enabled": {"auth.allowAnonymous": True},
}
"""What has to change together with a value."""
SAMPLES: Mapping[str, Any] = {
    "accessModes": ["ReadWriteMany"],
    "affinity": {"podAffinity": {"changed": []}},
    "apiServerPorts": [8443],
    "auth.source": "store",
    "apps": [{"name": "b", "model": "b@production", "replicas": {"min": 2, "max": 4}}],
    "clientNamespaces": ["changed"],
    "digest": "sha256:" + "0" * 64,
    "env": [{"name": "CHANGED", "value": "yes"}],
    "envFrom": [{"secretRef": {"name": "changed"}}],
    "existingClaim": "changed",
    "hostnames": ["changed.example.com"],
    "http": {"port": 9000},
    "hosts": ["changed.example.com"],
    "imagePullSecrets": [{"name": "changed"}],
    "interval": "77s",
    "keyNames": ["changed"],
    "minAvailable": 2,
    "parentRefs": [{"name": "changed"}],
    "pullPolicy": "Always",
    "readinessProbe": {"periodSeconds": 77},
    "redis.address": "changed:6379",
    "resources": {"requests": {"cpu": "77m", "memory": "77Mi"}, "limits": {"cpu": 7, "memory": "77Gi"}},
    "rules": [{"to": [{"ipBlock": {"cidr": "10.7.7.7/32"}}]}],
    "serving.autoscaling.upscalingMode": "Aggressive",
    "serving.autoscaling.version": "v1",
    "serving.faultTolerance.mode": "rocksdb",
    "serving.upgrade.maxSurgePercent": 77,
    "serving.upgrade.strategy": "None",
    "serving.worker.minReplicas": 1,
    "serving.workerGroups": [{"name": "changed"}],
    "store.url": "s3://changed/path",
    "subjects": [{"kind": "User", "name": "changed"}],
    "tls": [{"hosts": ["changed.example.com"], "secretName": "changed"}],
    "tolerations": [{"key": "changed", "operator": "Exists"}],
    "tracing.endpoint": "https://changed:4318",
    "tracing.sampler": "traceidratio",
    "tracing.samplerArg": "0.77",
    "topologySpreadConstraints": [
        {"maxSkew": 7, "topologyKey": "changed", "whenUnsatisfiable": "DoNotSchedule"}
    ],
    "version": "2.60.77",
    "volumeMounts": [{"name": "changed", "mountPath": "/changed"}],
    "volumes": [{"name": "changed", "emptyDir": {}}],
    "apiServer": [{"podSelector": {}}],
    "ingressControllers": [{"podSelector": {}}],
    "networkPolicy.monitoring": [{"podSelector": {}}],
    "operator": [{"podSelector": {}}],
}
"""What a value is changed to, by the end of its path; numbers, switches and plain text need no sample."""


@pytest.fixture(scope="module")
def defaults(chart: Chart) -> dict[str, Any]:
    """Every value with its default, by its path, as the schema knows them."""
    schema = json.loads((chart.path / "values.schema.json").read_text())
    content = yaml.safe_load((chart.path / "values.yaml").read_text())
    found: dict[str, Any] = {}

    def walk(part: Mapping[str, Any], values: Any, prefix: str) -> None:
        for name, inner in part.get("properties", {}).items():
            path = f"{prefix}{name}"
            if isinstance(values[name], dict) and values[name] and not _is_one_value(inner):
                walk(inner, values[name], f"{path}.")
            else:
                found[path] = values[name]

    walk(schema, content, "")
    return found


def _is_one_value(schema: Mapping[str, Any]) -> bool:
    """A section has no description of its own."""
    return "description" in schema


def test_readme_and_schema_are_made_from_the_values() -> None:
    result = subprocess.run(
        [sys.executable, REFERENCE, "--check"], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr


def test_every_value_stands_in_the_readme_with_its_comment(chart: Chart, defaults: dict[str, Any]) -> None:
    rows = re.findall(r"^\| `(\S+)` \| `.*` \| (.+) \|$", (chart.path / "README.md").read_text(), re.M)
    assert [path for path, _ in rows] == list(defaults)
    assert all(text.endswith((".", "…")) for _, text in rows)


# --- every value does something -------------------------------------------------------------------


def changed(path: str, default: Any) -> Any:
    """Another value than the default."""
    for key, sample in SAMPLES.items():
        if path == key or path.endswith(f".{key}"):
            return sample
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    if isinstance(default, dict):
        return {"changed": "yes"}
    assert isinstance(default, str), f"{path} needs a sample"
    return "77Gi" if re.fullmatch(r"[0-9]+[KMG]i", default) else "changed"


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they stand in a file."""
    made: dict[str, Any] = {}
    for path, value in flat.items():
        *sections, name = path.split(".")
        inner = made
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = copy.deepcopy(value)
    return made


def settings_for(path: str) -> dict[str, Any]:
    """The values beside which a value matters."""
    sections = sorted((key for key in INSTEAD if path == key or path.startswith(f"{key}.")), key=len)
    return {**MOST, **(INSTEAD[sections[-1]] if sections else {})}


def test_every_value_makes_a_difference(chart: Chart, defaults: dict[str, Any], tmp_path: Path) -> None:
    def text(name: str, values: Mapping[str, Any]) -> str:
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(nested(values)))
        result = chart.template(file, version="v32")
        assert result.returncode == 0, f"{name}: {result.stderr}"
        return re.sub(r"(?m)^(  \S+): \S{40,}$", r"\1", result.stdout)  # generated keys

    def problem(path: str) -> str | None:
        settings = settings_for(path)
        other = {**settings, path: changed(path, settings.get(path, defaults[path])), **ALONG.get(path, {})}
        try:
            differs = text(path, other) != before[str(settings)]
        except AssertionError as refused:
            return str(refused)
        return None if differs is (path not in WITHOUT_EFFECT) else f"{path} changes nothing"

    kinds = {str(settings): settings for settings in map(settings_for, defaults)}
    before = {key: text(f"before-{number}", kinds[key]) for number, key in enumerate(kinds)}
    with ThreadPoolExecutor(2) as pool:
        problems = [said for said in pool.map(problem, defaults) if said]
    assert not problems, "\n".join(problems)


def test_every_value_that_a_template_reads_is_declared(chart: Chart) -> None:
    content = yaml.safe_load((chart.path / "values.yaml").read_text())
    templates = sorted((chart.path / "templates").rglob("*.*"))
    read = {
        (file.name, path)
        for file in templates
        for path in re.findall(r"\.Values((?:\.[A-Za-z]\w*)+)", file.read_text())
    }
    assert len(read) > 50
    for file, path in sorted(read):
        part = content
        for name in path.split(".")[1:]:
            assert name in part, f"{file} reads .Values{path}, which values.yaml does not have"
            part = part[name]


# --- the schema -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("replicas=2", "replicas"),
        ('image.registry="x"', "registry"),
        ("serving.head.replicas=1", "replicas"),
        ('serving.faultTolerance.redis.adress="redis:6379"', "adress"),
        ('apps=[{"name":"a","model":"a","replica":2}]', "replica"),
        ('apps=[{"name":"a","model":"a","batching":{"size":2}}]', "size"),
        ('apps=[{"name":"a"}]', "model"),
        ('apps=[{"name":"A","model":"a"}]', "name"),
        ('apps=[{"name":"a","model":"a","replicas":0}]', "replicas"),
        ('apps=[{"name":"a","model":"a","route_prefix":"a/"}]', "route_prefix"),
        ('http={"prot":8000}', "prot"),
        ('serving.workerGroups=[{"nam":"x"}]', "nam"),
        ('serving.workerGroups=[{"name":"x","gpu":1}]', "gpu"),
        ('serving.head.resources={"request":{}}', "request"),
        ('serving.head.tolerations=[{"keys":"x"}]', "keys"),
        ('store.url="my-bucket"', "url"),
        ('image.pullPolicy="always"', "pullPolicy"),
        ('image.digest="sha256:abc"', "digest"),
        ('auth.enabled="yes"', "enabled"),
        ("serving.worker.minReplicas=-1", "minReplicas"),
        ('serving.worker.homeSize="20 GB"', "homeSize"),
        ('monitoring.podMonitor.interval="15"', "interval"),
        ("monitoring.rule.enabled=true", "rule"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(
    chart: Chart, helm_version: str, setting: str, words: str
) -> None:
    said = chart.refusal(settings=[setting], version=helm_version)
    assert words in said
    assert len(said.splitlines()) <= 6, said


def test_the_schema_is_closed_but_for_what_is_free_by_nature(chart: Chart) -> None:
    schema = json.loads((chart.path / "values.schema.json").read_text())
    open_ones = []

    def walk(part: Any, path: str) -> None:
        if isinstance(part, dict):
            if part.get("type") == "object" and part.get("additionalProperties", True) is True:
                open_ones.append(path)
            for name, inner in part.items():
                walk(inner, f"{path}.{name}" if name not in ("properties", "items") else path)
        elif isinstance(part, list):
            for inner in part:
                walk(inner, path)

    walk(schema, "")
    native = r"(Affinity|valueFrom|Ref|volumes|ports|readinessProbe|global|definitions\.App\.options)$"
    assert not [path for path in open_ones if not re.search(native, path)]


def test_the_schema_of_apps_takes_what_mizzen_takes(chart: Chart, rendered: Rendered) -> None:
    schema = json.loads((chart.path / "values.schema.json").read_text())
    apps = Draft7Validator({**schema["properties"]["apps"], "definitions": schema["definitions"]})
    whole = App.model_validate({"name": "a", "model": "a@production"}).model_dump(mode="json")
    assert not list(apps.iter_errors([whole]))
    for service in rendered.of("RayService"):
        served = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
        assert not list(apps.iter_errors([one["args"]["app"] for one in served]))

"""Every manifest of every scenario, against the schemas of Kubernetes 1.32 to 1.37 and of the operators.

Schemas are closed: a field that the cluster would drop in silence is an error here. What schemas cannot
say (rules in CEL, webhooks) is not checked. HTTPRoute's own schema is not among the definitions that we
have; a test below says by hand what it must be like.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml
from jsonschema.validators import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Chart, Manifest, Pod, Rendered, Scenario

KUBERNETES = ("1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
SCHEMAS = files("kubernetes_validate").joinpath("kubernetes-json-schema")
CUSTOM = {"ray.io", "monitoring.coreos.com"}
"""API groups whose definitions we have."""
BY_HAND = {"gateway.networking.k8s.io"}


# --- Kubernetes' own kinds ------------------------------------------------------------------------


@cache
def definitions(version: str) -> Registry:
    """The definitions that the schemas of a version share."""
    content = json.loads(SCHEMAS.joinpath(f"v{version}.0-local-strict/_definitions.json").read_text())
    return Resource.from_contents(content, DRAFT202012) @ Registry()


@cache
def kubernetes_schema(version: str, api_version: str, kind: str) -> Draft202012Validator:
    """The closed schema of one kind; raises FileNotFoundError if this Kubernetes does not know it."""
    group, _, name = api_version.rpartition("/")
    api = f"{group.split('.')[0]}-{name}" if group else name
    file = SCHEMAS.joinpath(f"v{version}.0-local-strict/{kind.lower()}-{api}.json")
    schema = Resource.from_contents(json.loads(file.read_text()), DRAFT202012)
    return Draft202012Validator(schema.contents, registry=schema @ definitions(version))


_seen: dict[tuple[str, str], list[str]] = {}


def kubernetes_errors(version: str, manifest: Manifest) -> list[str]:
    """What this version of Kubernetes would say; scenarios share manifests, so each is looked at once."""
    key = (version, json.dumps(manifest, sort_keys=True))
    if key not in _seen:
        validator = kubernetes_schema(version, manifest["apiVersion"], manifest["kind"])
        _seen[key] = [explain(error) for error in validator.iter_errors(manifest)]
    return _seen[key]


# --- the operators' kinds -------------------------------------------------------------------------


def unique_keys(_: Any, keys: list[str], items: Any, schema: Mapping[str, Any]) -> Iterator[Exception]:
    """A list that is a map by some keys: the cluster refuses the same key twice."""
    properties = schema.get("items", {}).get("properties", {})
    if isinstance(items, list):
        seen = [tuple(item.get(k, properties.get(k, {}).get("default")) for k in keys) for item in items]
        for twice in {key for key in seen if seen.count(key) > 1}:
            yield jsonschema.ValidationError(f"{dict(zip(keys, twice, strict=True))} stands there twice")


CustomResource = jsonschema.validators.extend(
    Draft202012Validator, {"x-kubernetes-list-map-keys": unique_keys}
)


def closed(schema: Any) -> Any:
    """The schema, refusing what the API server would drop."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    keeps = schema.get("x-kubernetes-preserve-unknown-fields", False)
    if schema.get("type") == "object" and "additionalProperties" not in schema and not keeps:
        made["additionalProperties"] = False
    if schema.get("nullable") and isinstance(schema.get("type"), str):
        made["type"] = [schema["type"], "null"]
    return made


@cache
def custom_schema(folder: Path, api_version: str, kind: str) -> Draft202012Validator:
    """The closed schema of one of the operators' kinds."""
    group, _, version = api_version.partition("/")
    file = folder / f"{group}_{kind.lower()}s.yaml"
    spec = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)["spec"]
    [content] = [one["schema"] for one in spec["versions"] if one["name"] == version and one["served"]]
    schema = closed(content["openAPIV3Schema"])
    # The definition says nothing of it; the metadata is Kubernetes' own.
    schema["properties"]["metadata"] = {"type": "object"}
    return CustomResource(schema)


def custom_errors(folder: Path, manifest: Manifest) -> list[str]:
    """What a cluster with the operators would say."""
    schema = custom_schema(folder, manifest["apiVersion"], manifest["kind"])
    return [explain(error) for error in schema.iter_errors(manifest)]


def group_of(manifest: Manifest) -> str:
    """The API group."""
    return manifest["apiVersion"].rpartition("/")[0]


def explain(error: jsonschema.ValidationError) -> str:
    """Where, and what."""
    return f"{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"


def complaints(found: Iterable[tuple[str, list[str]]]) -> str:
    """One line for each error."""
    return "\n".join(f"{what}: {error}" for what, errors in found for error in errors)


def label(manifest: Manifest) -> str:
    """`Kind/name`."""
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


# --- the tests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_manifest_fits_every_kubernetes(rendered: Rendered, version: str) -> None:
    own = [m for m in rendered.manifests if group_of(m) not in CUSTOM | BY_HAND]
    assert own
    assert not complaints((label(m), kubernetes_errors(version, m)) for m in own)


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_pod_in_an_operator_s_manifest_fits_every_kubernetes(rendered: Rendered, version: str) -> None:
    pods = [(pod.where, as_pod(pod)) for pod in rendered.pods if pod.is_ray]
    assert not complaints((where, kubernetes_errors(version, manifest)) for where, manifest in pods)


def as_pod(pod: Pod) -> Manifest:
    """The template as the pod that the operator makes of it."""
    metadata = {"name": "pod", "labels": dict(pod.labels)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": dict(pod.spec)}


def test_every_manifest_of_an_operator_fits_its_definition(rendered: Rendered, crds: Path) -> None:
    custom = [m for m in rendered.manifests if group_of(m) in CUSTOM]
    assert not complaints((label(m), custom_errors(crds, m)) for m in custom)
    assert not complaints((label(m), metadata_errors(m)) for m in custom)


def metadata_errors(manifest: Manifest) -> list[str]:
    """What is wrong with a custom resource's metadata, by Kubernetes' own schema of it."""
    stand_in = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": manifest["metadata"]}
    return kubernetes_errors(KUBERNETES[-1], stand_in)


def test_every_manifest_is_of_a_group_that_is_checked(rendered: Rendered) -> None:
    known = {"", "apps", "autoscaling", "batch", "networking.k8s.io", "policy", "rbac.authorization.k8s.io"}
    assert {group_of(manifest) for manifest in rendered.manifests} <= known | CUSTOM | BY_HAND


def test_an_http_route_names_its_parents_and_sends_everything_to_the_serve_service(
    rendered: Rendered,
) -> None:
    for route in rendered.of("HTTPRoute"):
        assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
        assert set(route["spec"]) <= {"parentRefs", "hostnames", "rules"}
        assert route["spec"]["parentRefs"], "a route without a parent is attached to nothing"
        for parent in route["spec"]["parentRefs"]:
            assert parent["name"]
            assert set(parent) <= {"group", "kind", "namespace", "name", "sectionName", "port"}
        service = f"{rendered.one('RayService')['metadata']['name']}-serve-svc"
        for rule in route["spec"]["rules"]:
            assert set(rule) <= {"name", "matches", "filters", "backendRefs", "timeouts"}
            backends = [(backend["name"], backend["port"]) for backend in rule["backendRefs"]]
            assert backends == [(service, 8000)]


def test_helm_s_own_checks_pass(chart: Chart, scenario: Scenario, helm_version: str) -> None:
    arguments: list[str | Path] = ["lint", "--strict", "--quiet", chart.path]
    for file in scenario.files:
        arguments += ["--values", file]
    result = chart.helm(*arguments, version=helm_version)
    assert result.returncode == 0, result.stdout + result.stderr


def test_both_helms_make_the_same(chart: Chart, scenario: Scenario) -> None:
    new, old = (chart.render(*scenario.files, version=version).manifests for version in ("v37", "v32"))
    assert sorted(map(canonical, new)) == sorted(map(canonical, old))


def canonical(manifest: Manifest) -> str:
    """Text that is equal if the manifests are; what a Secret holds is made anew each time."""
    if manifest["kind"] == "Secret":
        manifest = {**manifest, "data": sorted(manifest["data"])}
    return json.dumps(manifest, sort_keys=True)


# --- the checks themselves ------------------------------------------------------------------------


def test_an_unknown_field_of_kubernetes_is_refused() -> None:
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "dta": {}}
    for version in KUBERNETES:
        assert "dta" in complaints([("x", kubernetes_errors(version, manifest))])


def test_an_unknown_field_and_a_name_that_stands_twice_are_refused_in_a_ray_service(crds: Path) -> None:
    container = {"name": "ray", "env": [{"name": "A"}, {"name": "A"}], "imagePullPolice": "Always"}
    head = {"rayStartParams": {}, "template": {"spec": {"containers": [container]}}}
    said = complaints(
        [
            (
                "x",
                custom_errors(
                    crds,
                    {
                        "apiVersion": "ray.io/v1",
                        "kind": "RayService",
                        "metadata": {"name": "x"},
                        "spec": {"rayClusterConfig": {"headGroupSpec": head, "rayVersoin": "2.60.0"}},
                    },
                ),
            )
        ]
    )
    assert "imagePullPolice" in said
    assert "rayVersoin" in said
    assert "{'name': 'A'} stands there twice" in said

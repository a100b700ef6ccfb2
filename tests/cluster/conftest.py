"""The chart, rendered by both versions of helm, and the pods that come of it.

`scenario` is each values file that ships: the chart's defaults, `ci/*-values.yaml`, `deploy/environments/*`.
`rendered` is each scenario with each helm, together with RayJobs that the client makes from what the release
says about jobs. No cluster is asked.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
CHART = REPOSITORY / "helm" / "mizzen"
TOOLS = REPOSITORY / ".tools"
HELMS = ("v37", "v32")
"""Folders in `.tools`: helm 4 and helm 3."""
CRDS = Path(os.environ.get("MIZZEN_CRD_DIR") or REPOSITORY.parent / "shared" / "crds")
INSTALLED = (
    *("ray.io/v1", "ray.io/v1/RayCluster", "ray.io/v1/RayJob", "ray.io/v1/RayService"),
    *("monitoring.coreos.com/v1", "monitoring.coreos.com/v1/PodMonitor"),
    *("monitoring.coreos.com/v1/ServiceMonitor", "monitoring.coreos.com/v1/PrometheusRule"),
    *("gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1/HTTPRoute"),
    "gateway.networking.k8s.io/v1/Gateway",
)
"""What the cluster knows beyond Kubernetes itself, in the words of `.Capabilities.APIVersions`."""

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod that the release makes sooner or later, wherever its template stands."""

    where: str
    """`RayService/mizzen: head`, say; for messages."""
    role: str
    """`head`, `worker` or, of pods that are not Ray's, the kind that makes them."""
    labels: Mapping[str, str]
    spec: Mapping[str, Any]
    extra: Sequence[Mapping[str, Any]] = ()
    """Containers that an operator adds, as far as the manifest says what they are like."""

    @property
    def is_ray(self) -> bool:
        """Whether KubeRay makes it."""
        return self.role in ("head", "worker")

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        """All containers, those of initialisation too."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"], *self.extra]

    @property
    def main(self) -> Mapping[str, Any]:
        """The container that does the pod's work; in Ray's pods it runs Ray."""
        return self.spec["containers"][0]


@dataclass(frozen=True)
class Rendered:
    """What helm makes of one values file."""

    manifests: Sequence[Manifest]
    release: str
    namespace: str

    def of(self, kind: str) -> list[Manifest]:
        """All manifests of a kind."""
        return [manifest for manifest in self.manifests if manifest["kind"] == kind]

    def one(self, kind: str) -> Manifest:
        """The only manifest of a kind."""
        found = self.of(kind)
        assert len(found) == 1, f"{len(found)} manifests of kind {kind}"
        return found[0]

    def named(self, kind: str) -> set[str]:
        """The names of all manifests of a kind."""
        return {manifest["metadata"]["name"] for manifest in self.of(kind)}

    @cached_property
    def pods(self) -> list[Pod]:
        """Every pod template in any manifest."""
        return [pod for manifest in self.manifests for pod in _pods(manifest)]


def name_of(manifest: Manifest) -> str:
    """`Kind/name`."""
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def _pods(manifest: Manifest) -> Iterator[Pod]:
    kind, spec = manifest["kind"], manifest.get("spec") or {}
    where = name_of(manifest)
    if kind == "Pod":
        yield _pod(manifest, where, kind)
    elif kind in ("RayService", "RayCluster", "RayJob"):
        cluster = {"RayService": "rayClusterConfig", "RayJob": "rayClusterSpec"}.get(kind)
        ray = spec[cluster] if cluster else spec
        autoscaler = ray.get("autoscalerOptions")
        extra = [{"name": "autoscaler", **autoscaler}] if ray.get("enableInTreeAutoscaling") else []
        yield _pod(ray["headGroupSpec"]["template"], f"{where}: head", "head", extra)
        for group in ray.get("workerGroupSpecs", []):
            yield _pod(group["template"], f"{where}: {group['groupName']}", "worker")
        if "submitterPodTemplate" in spec:
            yield _pod(spec["submitterPodTemplate"], f"{where}: submitter", kind)
    elif kind == "CronJob":
        yield _pod(spec["jobTemplate"]["spec"]["template"], where, kind)
    elif "template" in spec:
        yield _pod(spec["template"], where, kind)


def _pod(template: Manifest, where: str, role: str, extra: Sequence[Manifest] = ()) -> Pod:
    labels = (template.get("metadata") or {}).get("labels") or {}
    return Pod(where, role, labels, template["spec"], extra)


@dataclass
class Chart:
    """Runs helm on the chart; what was rendered once is kept."""

    path: Path = CHART
    tools: Path = TOOLS
    _kept: dict[tuple[Any, ...], Rendered] = field(default_factory=dict)

    def helm(self, *arguments: str | Path, version: str = HELMS[0]) -> subprocess.CompletedProcess[str]:
        """Run helm; its exit status is the caller's to judge."""
        program = self.tools / version / "helm"
        assert program.is_file(), f"{program} is not there: `make test` fetches helm into {self.tools}"
        return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)

    def template(
        self,
        *files: Path,
        version: str = HELMS[0],
        settings: Sequence[str] = (),
        installed: Sequence[str] = INSTALLED,
        release: str = "mizzen",
        namespace: str = "ml",
    ) -> subprocess.CompletedProcess[str]:
        """`helm template` with these values files, and `settings` as for `--set-json`."""
        arguments: list[str | Path] = ["template", release, self.path, "--namespace", namespace]
        for file in files:
            arguments += ["--values", file]
        for setting in settings:
            arguments += ["--set-json", setting]
        for api in installed:
            arguments += ["--api-versions", api]
        return self.helm(*arguments, version=version)

    def render(self, *files: Path, **options: Any) -> Rendered:
        """The manifests that helm makes; fails with helm's own words."""
        key = (files, *((name, str(value)) for name, value in sorted(options.items())))
        if key not in self._kept:
            result = self.template(*files, **options)
            assert result.returncode == 0, result.stderr
            manifests = [m for m in yaml.load_all(result.stdout, Loader=yaml.CSafeLoader) if m]
            self._kept[key] = Rendered(
                manifests, options.get("release", "mizzen"), options.get("namespace", "ml")
            )
        return self._kept[key]

    def refusal(self, *files: Path, **options: Any) -> str:
        """What helm says when it refuses these values."""
        result = self.template(*files, **options)
        assert result.returncode != 0, "helm accepts these values"
        return result.stderr


@dataclass(frozen=True)
class Scenario:
    """Values that ship with the chart, by the name of their file."""

    name: str
    files: tuple[Path, ...]

    @property
    def values(self) -> Manifest:
        """The values, without the chart's defaults."""
        merged: Manifest = {}
        for file in self.files:
            merged |= yaml.load(file.read_text(), Loader=yaml.CSafeLoader) or {}
        return merged


def scenarios() -> list[Scenario]:
    """Every values file that ships with the chart, or with the environments."""
    ci = sorted((CHART / "ci").glob("*-values.yaml"))
    environments = sorted((REPOSITORY / "deploy" / "environments").glob("*/values.yaml"))
    return [
        Scenario("defaults", ()),
        *(Scenario(file.name.removesuffix("-values.yaml"), (file,)) for file in ci),
        *(Scenario(f"environment-{file.parent.name}", (file,)) for file in environments),
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `scenario` or `rendered` runs for each of them."""
    if "scenario" in metafunc.fixturenames:
        metafunc.parametrize("scenario", scenarios(), ids=lambda scenario: scenario.name, scope="session")
    if "helm_version" in metafunc.fixturenames:
        metafunc.parametrize("helm_version", HELMS, scope="session")


@pytest.fixture(scope="session")
def chart() -> Chart:
    """The chart."""
    return Chart()


@pytest.fixture(scope="session")
def with_jobs() -> Callable[[Rendered], Rendered]:
    """Adds RayJobs, as the client makes them with a release."""
    return lambda made: replace(made, manifests=[*made.manifests, *_rayjobs(made)])


@pytest.fixture(scope="session")
def rendered(
    chart: Chart, scenario: Scenario, helm_version: str, with_jobs: Callable[[Rendered], Rendered]
) -> Rendered:
    """What each helm makes of each scenario, and RayJobs as the client makes them with that release."""
    return with_jobs(chart.render(*scenario.files, version=helm_version))


def _rayjobs(made: Rendered) -> list[Manifest]:
    """A job on CPUs and one on GPUs."""
    from mizzen.cluster import config, train_job
    from mizzen.training import job

    [told] = [m for m in made.of("ConfigMap") if "mizzen.dev/config" in m["metadata"]["labels"]]
    release = config.parse(told["data"][config.CONFIG_KEY], told["metadata"]["name"])
    wanted = job.load(REPOSITORY / "jobs" / "recommendation.yaml")
    jobs = {
        "train-on-cpus": wanted,
        "train-on-gpus": wanted.model_copy(update={"scaling": job.Scaling(workers=2, gpus_per_worker=1)}),
    }
    return [train_job.manifest(one, release, name, made.namespace) for name, one in jobs.items()]


@pytest.fixture(scope="session")
def crds() -> Path:
    """The folder with the custom resource definitions."""
    if not CRDS.is_dir():
        pytest.skip(f"no custom resource definitions in {CRDS}; MIZZEN_CRD_DIR names another folder")
    return CRDS

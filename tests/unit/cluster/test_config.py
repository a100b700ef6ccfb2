"""What a release says about jobs, as the chart writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mizzen.cluster.config import ClusterConfig, parse
from mizzen.errors import InputError

CHART = Path(__file__).resolve().parents[3] / "helm" / "mizzen"


def test_the_defaults_are_those_of_a_plain_installation() -> None:
    config = parse("", "a test")
    assert config == ClusterConfig()
    assert (config.store.url, config.store.claim) == ("file:///var/lib/mizzen-store", "mizzen-store")


def test_the_defaults_are_the_charts() -> None:
    jobs = yaml.safe_load((CHART / "values.yaml").read_text())["jobs"]
    config = ClusterConfig()
    for ours, theirs in (
        (config.head, jobs["head"]),
        (config.cpu_worker, jobs["cpuWorker"]),
        (config.gpu_worker, jobs["gpuWorker"]),
    ):
        assert ours.resources.model_dump() == theirs["resources"]
        assert (ours.shm_size, ours.tmp_size, ours.home_size) == (
            *(theirs["shmSize"], theirs["tmpSize"]),
            theirs["homeSize"],
        )
        assert list(ours.tolerations) == theirs["tolerations"]
    assert config.submitter.model_dump() == jobs["submitter"]["resources"]


def test_numbers_may_stand_for_amounts() -> None:
    config = parse("head: {resources: {requests: {cpu: 2, memory: 1.5Gi}, limits: {cpu: 2.5}}}", "a test")
    assert config.head.resources.requests == {"cpu": "2", "memory": "1.5Gi"}
    assert config.head.resources.limits == {"cpu": "2.5"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("imagee: x", "imagee: no such field; allowed: release"),
        ("head: {resources: {requests: {memory: lots}}}", "head.resources.requests.memory"),
        ("head: {resources: {requests: {cpu: true}}}", "head.resources.requests.cpu"),
        ("image_pull_policy: Sometimes", "image_pull_policy"),
        ("store: {url: 's3://a`b`'}", "store.url"),
        ("store: {url: 's3://$HOME'}", "store.url"),
        ("{", "is not YAML"),
    ],
)
def test_what_is_wrong_is_named(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text, "the ConfigMap 'x'")
    assert words in str(caught.value)
    assert "the ConfigMap 'x'" in str(caught.value)

"""What values of the chart may look like, where `values.yaml` alone does not tell.

`BY_PATH` names one value, `BY_NAME` every value whose last part is that; the former wins. Everything else
has the type of its default. The shape of `apps` and `http` is not here: it is the serve file's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Shape = Mapping[str, Any]

QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi|e[0-9]+)?$"
QUANTITY: Shape = {"type": ["string", "number"], "pattern": QUANTITY_PATTERN}
STRINGS: Shape = {"type": "object", "additionalProperties": {"type": "string"}}
NAME: Shape = {"type": "string", "pattern": r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)?$"}
"""An object's name in Kubernetes, or nothing."""
DIGEST: Shape = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
DURATION: Shape = {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}
PERCENT: Shape = {"type": "integer", "minimum": 1, "maximum": 100}
COUNT: Shape = {"type": "integer", "minimum": 1}


def closed(*required: str, **properties: Shape) -> dict[str, Any]:
    """An object with these properties and no others."""
    shape = {"type": "object", "additionalProperties": False, "properties": dict(properties)}
    return {**shape, "required": list(required)} if required else shape


def listed(items: Shape) -> dict[str, Any]:
    """A list."""
    return {"type": "array", "items": dict(items)}


def one_of(*values: str) -> dict[str, Any]:
    """One of a few words."""
    return {"type": "string", "enum": list(values)}


TEXT: Shape = {"type": "string"}
WHOLE: Shape = {"type": "integer"}
FLAG: Shape = {"type": "boolean"}
NATIVE: Shape = {"type": "object"}
"""In Kubernetes' own words, which its API server checks."""
EXPRESSION = closed("key", "operator", key=TEXT, operator=TEXT, values=listed(TEXT))
SELECTOR = closed(matchLabels=STRINGS, matchExpressions=listed(EXPRESSION))
PEER = closed(
    namespaceSelector=SELECTOR,
    podSelector=SELECTOR,
    ipBlock=closed("cidr", **{"cidr": TEXT, "except": listed(TEXT)}),
)
"""Who may connect, as a NetworkPolicy says it."""
TOLERATION = closed(
    key=TEXT,
    operator=one_of("Exists", "Equal", "Lt", "Gt"),
    value=TEXT,
    effect=one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
    tolerationSeconds=WHOLE,
)
SPREAD = closed(
    "topologyKey",
    "whenUnsatisfiable",
    maxSkew=COUNT,
    minDomains=COUNT,
    topologyKey=TEXT,
    whenUnsatisfiable=one_of("DoNotSchedule", "ScheduleAnyway"),
    labelSelector=SELECTOR,
    matchLabelKeys=listed(TEXT),
    nodeAffinityPolicy=one_of("Honor", "Ignore"),
    nodeTaintsPolicy=one_of("Honor", "Ignore"),
)
MOUNT = closed(
    "name",
    "mountPath",
    name=TEXT,
    mountPath=TEXT,
    subPath=TEXT,
    subPathExpr=TEXT,
    readOnly=FLAG,
    recursiveReadOnly=TEXT,
    mountPropagation=TEXT,
)
VOLUME: Shape = {"type": "object", "required": ["name"], "properties": {"name": TEXT}}
QUANTITIES: Shape = {"type": "object", "additionalProperties": QUANTITY}

BY_NAME: Mapping[str, Shape] = {
    "accessModes": listed(one_of("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")),
    "affinity": closed(nodeAffinity=NATIVE, podAffinity=NATIVE, podAntiAffinity=NATIVE),
    "annotations": STRINGS,
    "digest": DIGEST,
    "env": listed(closed("name", name=TEXT, value=TEXT, valueFrom=NATIVE)),
    "envFrom": listed(closed(prefix=TEXT, configMapRef=NATIVE, secretRef=NATIVE)),
    "existingClaim": NAME,
    "existingSecret": NAME,
    "homeSize": QUANTITY,
    "imagePullSecrets": listed(closed("name", name=NAME)),
    "interval": DURATION,
    "labels": STRINGS,
    "nodeSelector": STRINGS,
    "podAnnotations": STRINGS,
    "podLabels": STRINGS,
    "priorityClassName": NAME,
    "rayStartParams": STRINGS,
    "resources": closed(requests=QUANTITIES, limits=QUANTITIES),
    "runtimeClassName": NAME,
    "shmSize": QUANTITY,
    "size": QUANTITY,
    "storageClassName": NAME,
    "tmpSize": QUANTITY,
    "tolerations": listed(TOLERATION),
    "topologySpreadConstraints": listed(SPREAD),
    "volumeMounts": listed(MOUNT),
    "volumes": listed(VOLUME),
}

_SAMPLERS = ("always_on", "always_off", "traceidratio")

BY_PATH: Mapping[str, Shape] = {
    "auth.source": one_of("secret", "store"),
    "auth.keyNames": {
        **listed({"type": "string", "pattern": "^[A-Za-z0-9][-._A-Za-z0-9]*$"}),
        "minItems": 1,
        "uniqueItems": True,
    },
    "global": NATIVE,
    "httpRoute.hostnames": listed(TEXT),
    "httpRoute.parentRefs": listed(
        closed("name", name=TEXT, namespace=TEXT, group=TEXT, kind=TEXT, sectionName=TEXT, port=WHOLE)
    ),
    "image.pullPolicy": one_of("Always", "IfNotPresent", "Never"),
    "image.repository": {"type": "string", "minLength": 1},
    "ingress.hosts": listed(TEXT),
    "ingress.tls": listed(closed(hosts=listed(TEXT), secretName=NAME)),
    "networkPolicy.clientNamespaces": listed(TEXT),
    "networkPolicy.egress.apiServer": listed(PEER),
    "networkPolicy.egress.apiServerPorts": listed({"type": "integer", "minimum": 1, "maximum": 65535}),
    "networkPolicy.egress.rules": listed(closed(to=listed(PEER), ports=listed(NATIVE))),
    "networkPolicy.ingressControllers": listed(PEER),
    "networkPolicy.monitoring": listed(PEER),
    "networkPolicy.operator": listed(PEER),
    "podDisruptionBudget.minAvailable": {"type": ["integer", "string", "null"], "pattern": "^[0-9]+%$"},
    "ray.version": {"type": "string", "pattern": r"^[0-9]+\.[0-9]+\.[0-9]+$"},
    "rbac.subjects": listed(
        closed(
            "kind",
            "name",
            kind=one_of("User", "Group", "ServiceAccount"),
            name=TEXT,
            namespace=TEXT,
            apiGroup=TEXT,
        )
    ),
    "serving.autoscaling.upscalingMode": one_of("Default", "Aggressive", "Conservative"),
    "serving.autoscaling.version": one_of("", "v1", "v2"),
    "serving.faultTolerance.mode": one_of("none", "redis", "rocksdb"),
    "serving.faultTolerance.redis.address": {
        "type": "string",
        "pattern": r"^((rediss?://)?[^/\s]+:[0-9]+)?$",
    },
    "serving.upgrade.maxSurgePercent": PERCENT,
    "serving.upgrade.stepSizePercent": PERCENT,
    "serving.upgrade.strategy": one_of("auto", "NewCluster", "NewClusterWithIncrementalUpgrade", "None"),
    "serving.watchEverySeconds": {"type": "number", "exclusiveMinimum": 0},
    "store.url": {"type": "string", "pattern": r"^([a-z][a-z0-9+]*://\S+)?$"},
    "tracing.endpoint": {"type": "string", "pattern": r"^(https?://\S+)?$"},
    "tracing.sampler": one_of(*_SAMPLERS, *(f"parentbased_{sampler}" for sampler in _SAMPLERS)),
    "tracing.samplerArg": {"type": ["number", "string"], "pattern": r"^(0(\.[0-9]+)?|1(\.0+)?)?$"},
    "tracing.serviceName": {"type": "string", "minLength": 1},
}

GROUPS = "serving.workerGroups"
"""A list whose entries have a `name` and any value of `GROUP`."""
GROUP = "serving.worker"
GROUP_NAME: Shape = {"type": "string", "pattern": "^[a-z]([-a-z0-9]{0,30}[a-z0-9])?$"}

"""What only a cluster has: Ray's head and applications, HAProxy, pods' memory, certificates."""

from __future__ import annotations

from rule import Alert, Group, RuleFile

_INGRESS = 'haproxy_frontend_http_responses_total{$RELEASE,proxy="http_frontend"'
_LEFT = "certmanager_certificate_expiration_timestamp_seconds"
_CERTIFICATES = f"""
min by (name) (
  {_LEFT}{{exported_namespace="$NAMESPACE"}}
  or {_LEFT}{{namespace="$NAMESPACE",exported_namespace=""}}
) - time()"""
"""Of this namespace, which has the other label unless cert-manager's monitor honours labels."""

_KUBERNETES_SERVING_RULES = (
    Alert(
        "MizzenHeadDown",
        "critical",
        'absent(up{$RELEASE,component="serving",node_type="head",endpoint="metrics"} == 1)',
        "Ray's head does not answer",
        """Nothing has been read from the head of the serving cluster for 5 minutes. Workers may go on
        answering, but no replica is replaced. Look at `kubectl describe rayservice` and the head's pod.""",
        lasting="5m",
    ),
    Alert(
        "MizzenAppFailed",
        "critical",
        "min by (namespace, release, application) (ray_serve_application_status{$RELEASE}) < 3",
        "The application {{ $labels.application }} could not be deployed or is unhealthy",
        """Ray Serve says so, even while the RayService is Ready: replicas from before may go on answering.
        `mizzen status --on kubernetes` shows the reason.""",
        lasting="2m",
    ),
    Alert(
        "MizzenNoReplica",
        "critical",
        """
        sum by (namespace, release, application) (ray_serve_autoscaling_target_replicas{$RELEASE}) > 0
        unless on (namespace, release, application)
        (sum by (namespace, release, application) (ray_serve_deployment_replica_healthy{$RELEASE}) > 0)
        """,
        "The application {{ $labels.application }} has no healthy replica",
        """Its requests are answered with 503. Is there a version behind its alias (`mizzen models list`), and
        room on the cluster (`kubectl get pods`)?""",
        lasting="10m",
    ),
    Alert(
        "MizzenIngressFails",
        "critical",
        f"""
        sum by (namespace, release) (rate({_INGRESS},code="5xx"}}[5m]))
        / sum by (namespace, release) (rate({_INGRESS}}}[5m])) > 0.05
        and sum by (namespace, release) (increase({_INGRESS},code="5xx"}}[5m])) >= 10
        and sum by (namespace, release) (increase({_INGRESS},code="5xx"}}[2m])) > 0
        """,
        "{{ $value | humanizePercentage }} of all requests fail at the ingress",
        """Counted where requests come in, so those that reached no replica are among them. If no
        application's own alert says the same, replicas are missing or cannot be reached.""",
        lasting="5m",
    ),
)

_KUBERNETES_PODS_RULES = (
    Alert(
        "MizzenMemoryNearlyFull",
        "warning",
        "ray_node_mem_used{$RELEASE} / ray_node_mem_total{$RELEASE} > 0.95",
        "The pod {{ $labels.pod }} uses {{ $value | humanizePercentage }} of its memory",
        """Kubernetes kills it if it needs more, and what runs in it starts again. Raise its limit, or let
        fewer replicas or smaller batches run in it.""",
        lasting="10m",
    ),
)

_KUBERNETES_CERTIFICATES_RULES = (
    Alert(
        "MizzenCertificateNotRenewed",
        "warning",
        f"{_CERTIFICATES} < $SECONDS(14d)",
        "The certificate {{ $labels.name }} expires in {{ $value | humanizeDuration }}",
        """cert-manager renews certificates a month before, so that it tries and cannot. `kubectl describe
        certificate` says why.""",
        lasting="1h",
    ),
    Alert(
        "MizzenCertificateExpires",
        "critical",
        f"{_CERTIFICATES} < $SECONDS(3d)",
        "The certificate {{ $labels.name }} expires in {{ $value | humanizeDuration }}",
        """After that, clients refuse to connect. cert-manager has not renewed it; `kubectl describe
        certificate` says why.""",
        lasting="15m",
    ),
)

FILE = RuleFile(
    "kubernetes",
    "What only a cluster has.",
    (
        Group(
            "mizzen-kubernetes-serving",
            _KUBERNETES_SERVING_RULES,
        ),
        Group(
            "mizzen-kubernetes-pods",
            _KUBERNETES_PODS_RULES,
        ),
        Group(
            "mizzen-kubernetes-certificates",
            _KUBERNETES_CERTIFICATES_RULES,
        ),
    ),
    on_laptops=False,
)

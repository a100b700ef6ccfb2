"""The labels that several series have, each with its bound; a label of one series alone stands with it."""

from __future__ import annotations

from mizzen.series import Label

APP = Label("app", "The application, as the serve file names it.", limit=500)
MODEL = Label("model", "The model in the store.", limit=500)
VERSION = Label("version", "The model's version.", limit=1000)
SERVED = (APP, MODEL, VERSION)
ROUTE = Label("route", "Template of the route that answered, `unknown` if none did.")
METHOD = Label("method", "HTTP method.", ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
CODE = Label("code", "HTTP status; 499: the client went away.", limit=80)
REJECTION = Label(
    "reason",
    "Why a request was refused before the model saw it.",
    (
        *("queue_full", "deadline", "rate_limit", "unauthenticated", "forbidden"),
        *("too_large", "too_slow", "invalid", "unavailable"),
    ),
)
QUEUE = Label(
    "queue", "Where it waited: for a place in the application, or for a batch.", ("admission", "batch")
)
SLO = Label("slo", "Which service level.", ("availability", "latency"))
OUTCOME = Label("outcome", "Whether the service level was met.", ("good", "bad"))
ALIAS = Label("alias", "The alias that the serve file names, `none` for a fixed version.", limit=50)
ROLE = Label("role", "What the version is in the application.", ("primary", "canary", "shadow"))
SHADOWED = Label(
    "outcome",
    "How the shadow's answer compares with the one that was sent.",
    ("same", "different", "failed", "skipped"),
)
FEATURE = Label("feature", "An input's feature, as the workload names it.", limit=50)
BIN = Label("bin", "Bin of the training distribution: a number from 0, or `missing` for no value.", limit=50)
TRAIN_JOB = Label("train_job", "The job's name, as its file says.", limit=100)
RUN = Label("run", "The run's id.", limit=200)
TRAINED = (TRAIN_JOB, RUN)
RANK = Label("rank", "The worker's rank.", limit=1024)
PHASE = Label("phase", "Part of an optimiser step.", ("data", "forward", "backward", "step"))
METRIC = Label("metric", "A metric of the workload.", limit=50)
EVENT = Label(
    "kind",
    "What happened.",
    (
        *("began", "worker_failed", "node_lost", "store_away", "store_back", "nan", "skipped"),
        *("rolled_back", "stalled", "notice", "resumed", "resized", "checkpoint_refused"),
    ),
)
MEMORY = Label("kind", "Which memory.", ("resident", "gpu_allocated", "gpu_peak"))
CHECK = Label("check", "What the gate found wrong.", ("parity", "quality", "nothing_judged"))
GATE = Label("gate", "The gate's verdict.", ("passed", "failed"))
OPERATION = Label("operation", "What the store was asked for.", ("read", "write", "create", "list", "delete"))
DIRECTION = Label("direction", "From or to the store.", ("read", "write"))
OWNER_KIND = Label("owner_kind", "What the resources are for.", ("app", "train_job"))
OWNER = Label("owner", "Name of the application or job.", limit=500)

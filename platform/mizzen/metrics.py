"""Every series that Mizzen emits, declared once: name, kind, unit, labels with their bounds, help, emitter.

`recording` writes them, `totals` reads them back over all processes, `docs/metrics.md` and the dashboards are
made from this list. It records nothing itself. A workload from outside may declare `Series` of its own and
record them the same way.

No label ever holds what a client sends: its values are a closed set, or come from files of the operator's
own; beyond a label's limit everything is `other`.
"""

from __future__ import annotations

from mizzen import labels
from mizzen.labels import SERVED, TRAINED
from mizzen.series import Label, Series

DURATIONS_S = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0),
)
_LONG_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_BATCHES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
_STEPS_AHEAD = (1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 24.0, 48.0, 96.0, 168.0, 336.0)

# --- requests -------------------------------------------------------------------------------------

REQUESTS = Series(
    "mizzen_requests_total", "counter", "1", (*SERVED, labels.ROUTE, labels.METHOD, labels.CODE),
    "Requests answered. Code 499: the client went away.", "replica",
)  # fmt: skip
REQUEST_DURATION = Series(
    "mizzen_request_duration_seconds", "histogram", "seconds", (*SERVED, labels.ROUTE),
    "From the request's first byte to the last of the answer.", "replica", buckets=DURATIONS_S,
)  # fmt: skip
REQUESTS_IN_FLIGHT = Series(
    "mizzen_requests_in_flight", "gauge", "1", SERVED,
    "Requests that are being answered or wait for it.", "replica",
)  # fmt: skip
QUEUE_WAIT = Series(
    "mizzen_queue_wait_seconds", "histogram", "seconds", (*SERVED, labels.QUEUE),
    "How long requests waited before they were worked on.", "replica", buckets=DURATIONS_S,
)  # fmt: skip
REJECTED = Series(
    "mizzen_requests_rejected_total", "counter", "1", (*SERVED, labels.REJECTION),
    "Requests that were refused before the model saw them.", "replica",
)  # fmt: skip
BATCH_SIZE = Series(
    "mizzen_batch_size", "histogram", "1", SERVED,
    "Requests that shared one call of the model.", "replica", buckets=_BATCHES,
)  # fmt: skip
BATCH_DURATION = Series(
    "mizzen_batch_duration_seconds", "histogram", "seconds", SERVED,
    "One call of the model for a batch.", "replica", buckets=DURATIONS_S,
)  # fmt: skip
SLO_REQUESTS = Series(
    "mizzen_slo_requests_total", "counter", "1", (labels.APP, labels.SLO, labels.OUTCOME),
    "Requests that count for a service level. Bad for availability: 5xx and what a full queue refused. Bad "
    "for latency: a good answer whose first byte came later than the objective says.", "replica",
)  # fmt: skip
SLO_OBJECTIVE = Series(
    "mizzen_slo_objective_ratio", "gauge", "ratio", (labels.APP, labels.SLO),
    "Share of requests that must be good, as `slo` in the serve file says.", "replica",
    across="livemostrecent",
)  # fmt: skip
SLO_LATENCY = Series(
    "mizzen_slo_latency_seconds", "gauge", "seconds", (labels.APP,),
    "By when the first byte of an answer must come, as `slo` in the serve file says.", "replica",
    across="livemostrecent",
)  # fmt: skip

# --- models that are served -----------------------------------------------------------------------

MODEL_INFO = Series(
    "mizzen_model_info", "gauge", "1",
    (
        *SERVED,
        Label("digest", "The version's digest.", limit=1000),
        labels.ALIAS,
        Label("workload", "The kind of model.", limit=50),
        Label("precision", "Of the weights.", ("fp32", "fp16", "bf16", "int8", "int4")),
        Label("provider", "ONNX Runtime's execution provider.", limit=20),
    ),
    "Replicas that answer with this version.", "replica",
)  # fmt: skip
MODEL_LOADED_AT = Series(
    "mizzen_model_loaded_timestamp_seconds", "gauge", "seconds", SERVED,
    "When the version was loaded, in seconds since 1970.", "replica", across="livemostrecent",
)  # fmt: skip
MODEL_LOAD_DURATION = Series(
    "mizzen_model_load_duration_seconds", "histogram", "seconds", SERVED,
    "Fetching, verifying, loading and warming up a version.", "replica", buckets=_LONG_S,
)  # fmt: skip
RELOAD_FAILURES = Series(
    "mizzen_reload_failures_total", "counter", "1", SERVED,
    "Replicas that could not load this version and kept the one before.", "replica",
)  # fmt: skip
TRAFFIC_WEIGHT = Series(
    "mizzen_traffic_weight_ratio", "gauge", "ratio", (*SERVED, labels.ROLE),
    "Share of the application's requests that go to the version.", "replica", across="livemostrecent",
)  # fmt: skip
SHADOW_REQUESTS = Series(
    "mizzen_shadow_requests_total", "counter", "1", (*SERVED, labels.SHADOWED),
    "Requests that were also sent to the shadow version.", "replica",
)  # fmt: skip
DRIFT_OBSERVATIONS = Series(
    "mizzen_drift_observations_total", "counter", "1", (*SERVED, labels.FEATURE, labels.BIN),
    "Values of an input's feature, by the bins of the training distribution.", "replica",
)  # fmt: skip
DRIFT_EXPECTED = Series(
    "mizzen_drift_expected_ratio", "gauge", "ratio", (*SERVED, labels.FEATURE, labels.BIN),
    "Share of the training data in the bin.", "replica", across="livemostrecent",
)  # fmt: skip
DRIFT_PSI = Series(
    "mizzen_drift_psi", "gauge", "1", (*SERVED, labels.FEATURE),
    "Population stability index of the replica's last inputs against training: above 0.25 they differ much.",
    "replica", across="livemax",
)  # fmt: skip

# --- chat and knowledge ---------------------------------------------------------------------------

CHAT_FIRST_TOKEN = Series(
    "mizzen_chat_time_to_first_token_seconds", "histogram", "seconds", SERVED,
    "From the request's arrival in the engine to its first token.", "replica", buckets=DURATIONS_S,
)  # fmt: skip
CHAT_OUTPUT_TOKEN = Series(
    "mizzen_chat_time_per_output_token_seconds", "histogram", "seconds", SERVED,
    "Mean time between the tokens of an answer, after the first.", "replica", buckets=DURATIONS_S,
)  # fmt: skip
CHAT_PROMPT_TOKENS = Series(
    "mizzen_chat_prompt_tokens_total", "counter", "tokens", SERVED,
    "Tokens of prompts, those that were cached too.", "replica",
)  # fmt: skip
CHAT_CACHED_TOKENS = Series(
    "mizzen_chat_cached_tokens_total", "counter", "tokens", SERVED,
    "Tokens of prompts that did not have to be read again.", "replica",
)  # fmt: skip
CHAT_GENERATED_TOKENS = Series(
    "mizzen_chat_generated_tokens_total", "counter", "tokens", SERVED, "Tokens generated.", "replica"
)
CHAT_GENERATIONS = Series(
    "mizzen_chat_generations_total", "counter", "1",
    (*SERVED, Label("outcome", "How it ended.", ("finished", "cancelled", "failed"))),
    "Generations that came to an end.", "replica",
)  # fmt: skip
CHAT_SEQUENCES = Series(
    "mizzen_chat_sequences", "gauge", "1",
    (*SERVED, Label("state", "Whether it has a slot.", ("running", "waiting"))),
    "Sequences that are being generated, or wait for a slot.", "replica",
)  # fmt: skip
CHAT_KV_TOKENS = Series(
    "mizzen_chat_kv_cache_tokens", "gauge", "tokens",
    (*SERVED, Label("state", "In use, or kept for prompts to come.", ("used", "kept"))),
    "Tokens in the key-value cache.", "replica",
)  # fmt: skip
CHAT_KV_CAPACITY = Series(
    "mizzen_chat_kv_cache_capacity_tokens", "gauge", "tokens",
    (*SERVED, Label("state", "For sequences in use, or for kept ones.", ("used", "kept"))),
    "Tokens that the key-value cache can hold.", "replica",
)  # fmt: skip
KNOWLEDGE_LOOKUPS = Series(
    "mizzen_knowledge_lookups_total", "counter", "1",
    (*SERVED, Label("outcome", "Whether a passage was near enough.", ("hit", "miss"))),
    "Questions to a knowledge base.", "replica",
)  # fmt: skip
KNOWLEDGE_REFUSALS = Series(
    "mizzen_knowledge_refusals_total", "counter", "1", SERVED,
    "Answers that say that the application does not know.", "replica",
)  # fmt: skip

# --- recommendation -------------------------------------------------------------------------------

RECOMMENDATION_USERS = Series(
    "mizzen_recommendation_users_total", "counter", "1",
    (*SERVED, Label("known", "What was known of the user.", ("user", "session", "nothing"))),
    "Users for whom items were recommended or ranked; of whom nothing is known is a cold start.", "replica",
)  # fmt: skip
RECOMMENDATION_CATALOGUE = Series(
    "mizzen_recommendation_catalogue_items", "gauge", "1", SERVED,
    "Items that the version can recommend.", "replica", across="livemax",
)  # fmt: skip
RECOMMENDATION_COVERED = Series(
    "mizzen_recommendation_covered_items", "gauge", "1", SERVED,
    "Distinct items that a replica has recommended since it loaded the version; of the one with most.",
    "replica", across="livemax",
)  # fmt: skip
RECOMMENDATION_EVENTS = Series(
    "mizzen_recommendation_events_total", "counter", "1",
    (
        *SERVED,
        Label("event", "What the user did.", ("impression", "click", "purchase", "rating")),
        Label("joined", "Whether the event names the recommendation that it came from.", ("true", "false")),
    ),
    "Feedback taken, each event once as far as a replica can tell; `version` is the one that recommended,"
    " where the event says so (`other` beyond some twenty).", "replica",
)  # fmt: skip

# --- forecasting ----------------------------------------------------------------------------------

FORECASTING_HORIZON = Series(
    "mizzen_forecasting_horizon_steps", "histogram", "1", SERVED,
    "Steps ahead that were asked for.", "replica", buckets=_STEPS_AHEAD,
)  # fmt: skip
FORECASTING_SERIES = Series(
    "mizzen_forecasting_series_total", "counter", "1",
    (*SERVED, Label("outcome", "Whether the series could be forecast.", ("ok", "refused"))),
    "Time series forecast or judged; a multivariate one is one.", "replica",
)  # fmt: skip
FORECASTING_JUDGED = Series(
    "mizzen_forecasting_points_judged_total", "counter", "1", SERVED,
    "Points compared with their forecast to find anomalies.", "replica",
)  # fmt: skip
FORECASTING_ANOMALIES = Series(
    "mizzen_forecasting_anomalies_total",
    "counter",
    "1",
    SERVED,
    "Points outside of their forecast.",
    "replica",
)

# --- training -------------------------------------------------------------------------------------

TRAINING_LOSS = Series(
    "mizzen_training_loss", "gauge", "1", TRAINED,
    "Training loss of the last step on the first worker; NaN or infinite if it was so on any.",
    "training worker",
    across="livemostrecent",
)  # fmt: skip
TRAINING_VALIDATION = Series(
    "mizzen_training_validation", "gauge", "1", (*TRAINED, labels.METRIC),
    "Metrics of the last validation.", "training worker", across="livemostrecent",
)  # fmt: skip
TRAINING_LEARNING_RATE = Series(
    "mizzen_training_learning_rate", "gauge", "1", TRAINED, "Learning rate of the last step.",
    "training worker", across="livemostrecent",
)  # fmt: skip
TRAINING_GRADIENT_NORM = Series(
    "mizzen_training_gradient_norm", "gauge", "1", TRAINED,
    "Norm of the last step's gradients over all workers, before clipping.", "training worker",
    across="livemostrecent",
)  # fmt: skip
TRAINING_STEP_DURATION = Series(
    "mizzen_training_step_duration_seconds", "histogram", "seconds", TRAINED,
    "One optimiser step of the run, its data included.", "training worker", buckets=DURATIONS_S,
)  # fmt: skip
TRAINING_PHASE = Series(
    "mizzen_training_phase_seconds_total", "counter", "seconds", (*TRAINED, labels.RANK, labels.PHASE),
    "Where each worker's steps spend their time; on a GPU the GPU's, so data is what it had to wait for.",
    "training worker",
)  # fmt: skip
TRAINING_STEPS = Series(
    "mizzen_training_steps_total", "counter", "1", TRAINED,
    "Optimiser steps of the run: one that all workers take together counts once.", "training worker",
)  # fmt: skip
TRAINING_STEP = Series(
    "mizzen_training_step", "gauge", "1", TRAINED, "The last optimiser step that is done.", "training worker",
    across="livemax",
)  # fmt: skip
TRAINING_NUM_STEPS = Series(
    "mizzen_training_planned_steps", "gauge", "1", TRAINED, "Optimiser steps that the run is to take.",
    "training worker", across="livemax",
)  # fmt: skip
TRAINING_LAST_ACTIVITY = Series(
    "mizzen_training_last_activity_timestamp_seconds", "gauge", "seconds", TRAINED,
    "When a worker last began, took a step, evaluated a batch or saved, in seconds since 1970.",
    "training worker", across="livemax",
)  # fmt: skip
TRAINING_SAMPLES = Series(
    "mizzen_training_samples_total", "counter", "1", TRAINED, "Samples trained on, over all workers.",
    "training worker",
)  # fmt: skip
TRAINING_TOKENS = Series(
    "mizzen_training_tokens_total", "counter", "tokens", TRAINED, "Tokens trained on, over all workers.",
    "training worker",
)  # fmt: skip
TRAINING_FLOPS = Series(
    "mizzen_training_model_flops_total", "counter", "1", TRAINED,
    "Floating-point operations that the model needs for what was trained, over all workers; what is computed "
    "a second time is not counted.",
    "training worker",
)  # fmt: skip
TRAINING_PEAK_FLOPS = Series(
    "mizzen_training_peak_flops_per_second", "gauge", "1", (*TRAINED, labels.RANK),
    "What the worker's GPU can do at most by its data sheet, in the run's precision; absent if unknown.",
    "training worker", across="livemax",
)  # fmt: skip
TRAINING_MEMORY = Series(
    "mizzen_training_memory_bytes", "gauge", "bytes", (*TRAINED, labels.RANK, labels.MEMORY),
    "Memory of the worker.", "training worker", across="livemax",
)  # fmt: skip
TRAINING_WORKERS = Series(
    "mizzen_training_workers", "gauge", "1", TRAINED, "Workers that train.", "training worker"
)
CHECKPOINT_BLOCKED = Series(
    "mizzen_training_checkpoint_blocked_seconds", "histogram", "seconds", TRAINED,
    "For which a worker stood still for a checkpoint: the copy, and the wait for one on its way.",
    "training worker", buckets=_LONG_S,
)  # fmt: skip
CHECKPOINT_DURATION = Series(
    "mizzen_training_checkpoint_duration_seconds", "histogram", "seconds", TRAINED,
    "Writing one worker's part of a checkpoint, while the run goes on.", "training worker",
    buckets=_LONG_S,
)  # fmt: skip
CHECKPOINT_BYTES = Series(
    "mizzen_training_checkpoint_bytes", "gauge", "bytes", TRAINED,
    "Size of the last checkpoint, over the workers of this machine.", "training worker",
)  # fmt: skip
TRAINING_RESTARTS = Series(
    "mizzen_training_restarts_total", "counter", "1", TRAINED,
    "Times that the workers of a run were started again, after a failure or in a later attempt at the run; "
    "not to be more of them.",
    "training driver",
)  # fmt: skip
TRAINING_NONFINITE = Series(
    "mizzen_training_nonfinite_losses_total", "counter", "1", TRAINED,
    "Steps whose loss was NaN or infinite on a worker; the job's faults.on_nan says what follows.",
    "training worker",
)  # fmt: skip
TRAINING_EVENTS = Series(
    "mizzen_training_events_total", "counter", "1", (*TRAINED, labels.EVENT),
    "What happened to a run besides its steps, as `mizzen runs show` tells it.", "training driver",
)  # fmt: skip
TRAINING_RUNS = Series(
    "mizzen_training_runs_total", "counter", "1",
    (labels.TRAIN_JOB, Label("outcome", "How it ended.", ("succeeded", "failed", "cancelled"))),
    "Runs that came to an end.", "training driver",
)  # fmt: skip

# --- store ----------------------------------------------------------------------------------------

STORE_PUBLISHES = Series(
    "mizzen_store_publishes_total",
    "counter",
    "1",
    (labels.MODEL, labels.GATE),
    "Versions published.",
    "store",
)
STORE_GATE_FAILURES = Series(
    "mizzen_store_gate_failures_total", "counter", "1", (labels.MODEL, labels.CHECK),
    "What the gate refused versions for.", "store",
)  # fmt: skip
STORE_PARITY_ERROR = Series(
    "mizzen_store_parity_error", "gauge", "1", (labels.MODEL,),
    "Largest difference of an output between PyTorch and the last export.", "store", across="mostrecent",
)  # fmt: skip
STORE_QUALITY_LOSS = Series(
    "mizzen_store_quality_loss_ratio", "gauge", "ratio", (labels.MODEL,),
    "How much worse than its model the last quantised export was, by the workload's metric.", "store",
    across="mostrecent",
)  # fmt: skip
STORE_VERSION_BYTES = Series(
    "mizzen_store_version_bytes", "gauge", "bytes", (labels.MODEL,),
    "Size of the last version published.", "store", across="mostrecent",
)  # fmt: skip
STORE_ALIAS_MOVES = Series(
    "mizzen_store_alias_moves_total",
    "counter",
    "1",
    (labels.MODEL, labels.ALIAS),
    "Aliases that were moved.",
    "store",
)
STORE_TRANSFERRED = Series(
    "mizzen_store_transferred_bytes_total", "counter", "bytes", (labels.DIRECTION,),
    "Bytes from and to the store.", "store",
)  # fmt: skip
STORE_OPERATION_DURATION = Series(
    "mizzen_store_operation_duration_seconds", "histogram", "seconds", (labels.OPERATION,),
    "Calls of the object store that came to an end, with or without success.", "store", buckets=DURATIONS_S,
)  # fmt: skip
STORE_ERRORS = Series(
    "mizzen_store_errors_total", "counter", "1", (labels.OPERATION,),
    "Calls of the object store that failed; an object that is not there is no failure.", "store",
)  # fmt: skip

# --- machines and costs ---------------------------------------------------------------------------

RESERVED_CPUS = Series(
    "mizzen_reserved_cpus", "gauge", "1", (labels.OWNER_KIND, labels.OWNER),
    "CPUs that living replicas and training workers have reserved.", "replica, training worker",
)  # fmt: skip
RESERVED_GPUS = Series(
    "mizzen_reserved_gpus", "gauge", "1", (labels.OWNER_KIND, labels.OWNER),
    "GPUs that living replicas and training workers have reserved.", "replica, training worker",
)  # fmt: skip
RESERVED_CPU = Series(
    "mizzen_reserved_cpu_seconds_total", "counter", "seconds", (labels.OWNER_KIND, labels.OWNER),
    "CPUs reserved, times how long: what replicas and training workers cost, busy or not.",
    "replica, training worker",
)  # fmt: skip
RESERVED_GPU = Series(
    "mizzen_reserved_gpu_seconds_total", "counter", "seconds", (labels.OWNER_KIND, labels.OWNER),
    "GPUs reserved, times how long.", "replica, training worker",
)  # fmt: skip
USED_CPU = Series(
    "mizzen_used_cpu_seconds_total", "counter", "seconds", (labels.OWNER_KIND, labels.OWNER),
    "CPU time that replicas and training workers have used.", "replica, training worker",
)  # fmt: skip
RESIDENT_MEMORY = Series(
    "mizzen_resident_memory_bytes", "gauge", "bytes", (labels.OWNER_KIND, labels.OWNER),
    "Resident memory of replicas and training workers.", "replica, training worker",
)  # fmt: skip
DISK_FREE = Series(
    "mizzen_disk_free_bytes", "gauge", "bytes", (), "Free space where MIZZEN_HOME lies.", "exporter"
)
DISK_SIZE = Series(
    "mizzen_disk_size_bytes", "gauge", "bytes", (), "Size of the disk where MIZZEN_HOME lies.", "exporter"
)
BUILD_INFO = Series(
    "mizzen_build_info", "gauge", "1",
    (Label("release_version", "Of Mizzen.", limit=5), Label("python", "Of Python.", limit=5)),
    "Which Mizzen this is.", "exporter",
)  # fmt: skip

SERIES: tuple[Series, ...] = tuple(value for value in list(vars().values()) if isinstance(value, Series))
"""All of them, in the order of this page."""

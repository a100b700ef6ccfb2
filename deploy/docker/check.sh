#!/usr/bin/env bash
# Checks an image of Mizzen in containers with the rights that Kubernetes' restricted profile leaves them: user 1000,
# read-only root, no capabilities, and no network but for the one sample that is downloaded. It builds nothing.
#
#   deploy/docker/check.sh IMAGE [ENGINE]
#
# ENGINE is docker (the default) or podman, with its own options if need be. RUN_ARGS is added to each `run` (`--gpus
# all`), ONLINE_ARGS to the one with a network (a mounted pip.conf), TRAIN_ARGS to `mizzen train` (`--set
# scaling.gpus_per_worker=1`). It takes a few minutes, and 4 GiB of memory.
set -euo pipefail

image=${1:?"usage: check.sh IMAGE [ENGINE]"}
read -ra engine <<< "${2:-docker}"
read -ra run_args <<< "${RUN_ARGS:-}"
read -ra online_args <<< "${ONLINE_ARGS:-}"
read -ra train_args <<< "${TRAIN_ARGS:-}"
patience_s=${PATIENCE_S:-240}

name=mizzen-check-$$
workloads=/opt/mizzen/lib/python3.11/site-packages/mizzen/workloads
tmpfs="rw,exec,mode=1777,size=4g"
run=(run --rm --read-only --user 1000:1000 --cap-drop all --security-opt no-new-privileges
  --tmpfs "/tmp:$tmpfs" --shm-size 1g --volume "$name:/var/lib/mizzen" "${run_args[@]}")

step() { printf '\n== %s\n' "$*"; }
online() { "${engine[@]}" "${run[@]}" "${online_args[@]}" "$image" "$@"; }
alone() { "${engine[@]}" "${run[@]}" --network none "$image" "$@"; }
in_server() { "${engine[@]}" exec -i "$name" "$@"; }

clean_up() {
  "${engine[@]}" rm --force "$name" > /dev/null 2>&1 || true
  "${engine[@]}" volume rm "$name" > /dev/null 2>&1 || true
}
trap clean_up EXIT

# until_true WHAT COMMAND...: tries until it succeeds or patience is over; then shows what the server said.
until_true() {
  local what=$1 deadline=$((SECONDS + patience_s))
  shift
  until "$@"; do
    if ((SECONDS > deadline)); then
      "${engine[@]}" logs --tail 40 "$name" >&2
      echo "FAILED: $what, in $patience_s s" >&2
      exit 1
    fi
    sleep 1
  done
}

# server OPTIONS... -- COMMAND...: a container in the background.
server() {
  local options=()
  while [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  shift
  "${engine[@]}" "${run[@]}" --detach --network none --name "$name" "${options[@]}" "$image" "$@" > /dev/null
}

stop_server() { "${engine[@]}" stop -t 60 "$name" > /dev/null; }

"${engine[@]}" volume create "$name" > /dev/null

step "user, programs that pods need, and no compiler"
# shellcheck disable=SC2016
alone bash -c '
  [ "$(id -u):$(id -g)" = 1000:1000 ] || { echo "runs as $(id)"; exit 1; }
  for program in python ray serve mizzen sh bash wget grep; do
    command -v "$program" || { echo "$program is missing"; exit 1; }
  done
  for program in cc gcc g++ c++ clang nvcc; do
    ! command -v "$program" || exit 1
  done
  if touch /opt/mizzen/written 2> /dev/null; then echo "the environment can be changed"; exit 1; fi
'

step "mizzen version, mizzen doctor"
alone mizzen version
alone mizzen doctor

step "training with 2 workers"
online mizzen data fetch m1-yearly
alone mizzen train "$workloads/forecasting/jobs/quickstart.yaml" --set training.epochs=2 "${train_args[@]}"
alone mizzen models verify

step "mizzen serve"
server -- mizzen serve
in_server mizzen try --timeout "$patience_s" http://127.0.0.1:8000/forecasting
stop_server

step "Ray as KubeRay starts it, with tokens and API keys"
alone sh -c 'umask 077; mkdir -p keys; head -c 24 /dev/urandom | od -An -tx1 | tr -d " \n" > keys/default'
server --env MIZZEN_API_KEYS=/var/lib/mizzen/keys --env RAY_AUTH_MODE=token --env RAY_AUTH_TOKEN="check-$name" \
  --env RAY_SERVE_ENABLE_HA_PROXY=1 --env RAY_SERVE_THROUGHPUT_OPTIMIZED=1 -- \
  /bin/bash -c -- "ulimit -n 65536; ray start --head --block --dashboard-host=0.0.0.0 --metrics-export-port=8080 \
    --dashboard-agent-listen-port=52365 --num-cpus=2"
# What KubeRay's probes ask, and what its job submitter waits for.
for url in http://localhost:52365/api/healthz http://localhost:8265/api/gcs_healthz; do
  until_true "$url says success" in_server bash -c "wget --tries 1 -T 5 -q -O- $url 2> /dev/null | grep -q success"
done
in_server sh -c 'cat > /tmp/serve.yaml' << 'CONFIG'
applications:
  - name: forecasting
    route_prefix: /forecasting
    import_path: mizzen.serving.app:build
    args:
      app: {name: forecasting, model: forecasting@production}
      store_url: file:///var/lib/mizzen/store
      watch_every_s: 15
CONFIG
# Serve gives its proxy a minute; on a slow machine it takes a second try, as KubeRay makes it.
until_true "the applications are deployed" in_server sh -c 'serve deploy /tmp/serve.yaml > /tmp/deploy.log 2>&1'
in_server mizzen try --timeout "$patience_s" http://127.0.0.1:8000/forecasting
if in_server env -u MIZZEN_API_KEYS mizzen try --timeout 5 http://127.0.0.1:8000/forecasting; then
  echo "FAILED: it answers without an API key" >&2
  exit 1
fi
in_server sh -c 'mizzen metrics --once | grep -c "^mizzen_requests_total"'
stop_server

step "$image is fit"

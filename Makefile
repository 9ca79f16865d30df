# The developer's interface: `make help` lists the commands. Needs Python >= 3.11, git and make, nothing else.

# A module in the current folder must never shadow the standard library.
export PYTHONSAFEPATH := 1

PY := .venv/bin/python
PYTEST := $(PY) -m pytest
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help venv demo test check format lint bench lock images e2e clean

help:  ## this list
	@sed -n 's/^\([a-z][a-z-]*\):[^#]*## \(.*\)$$/\1|\2/p' Makefile | awk -F'|' '{ printf "  make %-8s %s\n", $$1, $$2 }'

venv:  ## make .venv from the hashed lock (does nothing when it is up to date)
	@bash tools/venv.sh "$(PYTHON)"

demo: venv  ## start a cluster on this machine, load real data, break things, count what was lost
	@bash tools/demo_data.sh
	@$(PY) -P -m ringkeep.demo

test: venv  ## every test that needs no Kubernetes
	@bash tools/tests.sh $(WORKERS)

check: lint test  ## what CI runs: format, lint, types, import contracts, then the tests

lint: venv
	@bash tools/lint.sh

format: venv  ## rewrite the code in the project's format
	@$(PY) -m ruff check --quiet --fix-only --select I,UP,RUF100 .
	@$(PY) -m ruff format .

bench: venv  ## the benchmarks
	@if [ -f benchmarks/run.sh ]; then bash benchmarks/run.sh; \
	else echo "bench: there is no benchmarks/run.sh in this version" >&2; exit 1; fi

images:  ## the images ringkeep-node and ringkeep-operator (needs docker)
	@bash tools/images.sh

e2e: venv  ## the tests on a kind cluster (needs kind, docker, kubectl, helm); E2E_CLUSTER=current: on the current one
	@bash tools/e2e.sh

lock:  ## renew the locks, requirements*.txt (needs uv)
	@bash tools/lock.sh

clean:  ## remove the environment, caches and what local clusters left here
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist .ci/out
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Every command we use; `make help` lists them. A bare machine needs python3 (>= 3.11, with venv), make and CA certificates.
SHELL := /bin/sh
.DEFAULT_GOAL := help
UV_VERSION := 0.13.8
UV := .tools/bin/uv
PY := .venv/bin/python
RUN := .venv/bin
NAME ?=
# Tests wait more than they compute; each worker has servers of its own, unless there are addresses of some to share.
TEST_WORKERS ?= $(if $(AIFN_KAFKA),0,3)
OFFLINE ?=
export UV_PYTHON_DOWNLOADS = never
export UV_NO_PROGRESS = 1

.PHONY: help setup test-federation demo demo-federation up down test check schemas images test-containers k8s-check bench fmt clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | while IFS='	' read -r name what; do printf '  %-16s %s\n' "$$name" "$$what"; done

$(UV):
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "aifn needs Python 3.11 or newer as python3; this is $$(python3 --version 2>&1)"; exit 1; }
	@python3 -c 'import ensurepip, venv' 2>/dev/null || { echo "python3 has no venv module: install your system's python3-venv package"; exit 1; }
	@python3 -m venv .tools && .tools/bin/pip install --quiet --disable-pip-version-check 'uv==$(UV_VERSION)' || { rm -rf .tools; echo "uv could not be installed: is the Python package index reachable from here?"; exit 1; }

.venv/.synced: uv.lock pyproject.toml $(wildcard libs/*/pyproject.toml services/*/pyproject.toml deploy/*/pyproject.toml) | $(UV)
	@$(UV) sync --quiet --frozen --all-packages --python "$$(command -v python3)"
	@touch $@

setup: .venv/.synced ## install everything into .venv, from the lock file

demo: setup ## the main job, end to end, on a real Kafka and a real PostgreSQL
	@$(RUN)/aifn demo

demo-federation: setup ## four members and two relays on this machine: what they tell each other, notice and repair
	@$(RUN)/aifn demo-federation

up: setup ## start the local stack and every service, and leave them running
	@$(RUN)/aifn up

down: setup ## stop what `make up` started; its data stay
	@$(RUN)/aifn down

test: setup ## all tests (pytest); starts the broker and the database it needs
	@$(PY) -m pytest -n $(TEST_WORKERS) --dist loadfile

test-federation: setup ## the story of a federation of four members and two relays, each with a broker of its own
	@AIFN_FEDERATION=1 $(PY) -m pytest tests/journeys/test_federation.py

check: setup ## ruff, mypy, import rules, doctests, generated files current
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .
	@$(RUN)/mypy libs services deploy/local deploy/images deploy/k8s tests benchmarks
	@$(RUN)/lint-imports
	@$(PY) -m pytest --doctest-modules libs services deploy/local deploy/images deploy/k8s
	@$(RUN)/aifn schemas --check

schemas: setup ## write what is generated: JSON Schemas, AsyncAPI, OpenAPI, docs/topics.md
	@$(RUN)/aifn schemas

images: setup ## one image for each service; OFFLINE=1 needs no registry; some with NAME="registry skills"
	@OFFLINE=$(OFFLINE) PYTHONPATH=deploy/images $(PY) -m aifn_images $(NAME)

test-containers: setup ## a factory in containers, on the images of `make images`; needs a Docker engine
	@$(PY) -m pytest -m containers -rs tests/containers

k8s-check: setup ## render every Kubernetes overlay and validate it; builds its two tools with Go, once
	@$(RUN)/aifn k8s check

bench: setup ## measure, print a table, write build/bench/<name>.json; one with NAME=usage
	@$(PY) -m benchmarks $(NAME)

sim-federation: setup ## all 32 members in virtual time, an hour of it; SIM="--seconds 120 --share 1" for less
	@$(PY) -m tests.federation.simulation $(SIM)

fmt: setup ## format
	@$(RUN)/ruff format . && $(RUN)/ruff check --fix .

clean: ## remove what was built here (not the download cache)
	rm -rf .venv .tools build .mypy_cache .ruff_cache .hypothesis

# `make` lists the targets. Each works in a fresh clone and needs Python 3.11 or newer. Targets with "containers" in their
# description also need Docker with Compose v2.

PYTHON ?= python3
# The package index of torch. The default has the CPU build; empty means the configured index (on Linux: the CUDA build).
TORCH_INDEX_URL ?= https://download.pytorch.org/whl/cpu
SERVE_PORT ?= 3000
# The data set of `make run`: a name, or folder:PATH.
DATASET ?= $(or $(PIPELINE_DATASET),mnist)

VENV := .venv
BIN := $(VENV)/bin
RUNNABLE := $(VENV)/.runnable
INSTALLED := $(VENV)/.installed

.PHONY: help run free-port test test-fast lint audit types unit test-stack test-faults test-scale docs bench-train bench-serve \
	bench-soak pictures format lock up down clean
.DEFAULT_GOAL := help

# SCALE=quick leaves out what takes minutes.
QUICK := $(if $(filter quick,$(SCALE)), and not long)
# A process per core, up to four; the tests of a module run in order in one of them.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: free-port $(RUNNABLE) ## train unless done before, then serve on http://127.0.0.1:3000; DATASET=folder:PATH trains on your pictures
	PIPELINE_DATASET="$(DATASET)" $(BIN)/python -m pipeline train
	SERVING_MODEL_NAME="$$($(BIN)/python -m pipeline.data.names "$(DATASET)")" MLFLOW_TRACKING_URI=$${MLFLOW_TRACKING_URI:-sqlite:///$${PIPELINE_STATE_DIR:-var}/mlflow.db} \
		BENTOML_HOME=$(CURDIR)/var/bentoml BENTOML_DO_NOT_TRACK=True \
		$(BIN)/bentoml serve serving.service:Digits --host 127.0.0.1 --port $(SERVE_PORT)

# Before the training, not after it.
free-port:
	@$(PYTHON) .ci/free_port.py $(SERVE_PORT)

test: lint types unit ## everything that needs no container: lint, types, tests

test-fast: $(INSTALLED) ## the tests that take under a minute together, without lint and types
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not stack and not browser and not faults and not scale" $(PYTEST_ARGS)

lint: $(INSTALLED) ## style, formatting, import rules, language, workflows, Dockerfiles and secrets
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/python .ci/prose.py
	$(BIN)/zizmor --offline --no-progress --pedantic --quiet .github
	$(BIN)/hadolint --failure-threshold style Dockerfile.serve Dockerfile.train deploy/haproxy/Dockerfile deploy/postgres/Dockerfile
	$(BIN)/kingfisher scan . --quiet --no-update-check --config .ci/kingfisher.yaml --branch HEAD

audit: $(INSTALLED) ## compare the locked versions with known vulnerabilities; needs the network: 3 without an answer
	@$(BIN)/python .ci/audit.py $(AUDIT_ARGS)

types: $(INSTALLED) ## static types, by mypy
	$(BIN)/mypy

unit: $(INSTALLED) ## the tests alone; PYTEST_ARGS="-k gate" narrows them
	$(BIN)/python -m pytest $(PARALLEL) -m "not stack and not browser and not faults and not scale" $(PYTEST_ARGS)

test-stack: $(INSTALLED) ## containers: build, train, serve, compare, take down (MNIST_DIR must be set); the pages in chromium
	$(BIN)/python -m pytest -m "(stack or browser) and not scale" --timeout 2700 tests/browser tests/stack $(PYTEST_ARGS)

test-faults: $(INSTALLED) ## cause faults on real processes, for minutes: servers killed and paused, commands killed and stopped
	$(BIN)/python -m pytest $(PARALLEL) -m faults tests/faults $(PYTEST_ARGS)

test-scale: $(INSTALLED) ## Ray, PostgreSQL and S3, replicas, Kubernetes, for minutes (needs kubectl, PostgreSQL, Docker, MNIST_DIR); SCALE=quick runs a part
	$(BIN)/python -m pytest $(PARALLEL) -m "scale and not stack$(QUICK)" tests/deploy tests/scale $(PYTEST_ARGS)
	$(BIN)/python -m pytest -m "scale and stack$(QUICK)" --timeout 2700 tests/stack $(PYTEST_ARGS)

docs: $(INSTALLED) ## build the documentation site into build/site; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

bench-train: $(INSTALLED) ## time the chapter's loop against ours (MNIST_DIR must be set); BENCH_ARGS="--keras" adds Keras
	$(BIN)/python -m benchmarks.training $(BENCH_ARGS)

bench-serve: $(INSTALLED) ## time the service against others (needs wrk, two cores, a champion); BENCH_ARGS="--quick" is a trial
	$(BIN)/python -m benchmarks.serving $(BENCH_ARGS)

bench-soak: $(INSTALLED) ## hold 80 % of the capacity for 30 minutes, then overload (two idle cores, a champion); BENCH_ARGS="--minutes 5"
	$(BIN)/python -m benchmarks.soak $(BENCH_ARGS)

pictures: $(INSTALLED) ## draw docs/pictures: those of docs/how-it-works.md and of the champion's run
	$(BIN)/python -m pipeline.report.illustrations

format: $(INSTALLED) ## rewrite the code in ruff's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Compose needs a folder's full path, and an image has no repository to read its commit from. If training ends without a
# champion, its last line has the reason.
up: ## containers: build and start the whole flow; ends when the service is ready
	$(if $(MNIST_DIR),MNIST_DIR="$(abspath $(MNIST_DIR))") \
	GIT_COMMIT="$$(git describe --always --abbrev=40 --dirty --exclude='*' 2>/dev/null)" \
	docker compose up --build --detach --wait serve || \
		{ docker compose logs --no-log-prefix --tail 1 train; exit 1; }

down: ## containers: stop everything; the runs and models stay
	docker compose down

clean: ## remove the virtual environments and caches; the runs and models in var/ stay
	rm -rf $(VENV) $(VENV)-tensorflow $(VENV)-servers .import_linter_cache .mypy_cache .pytest_cache .ruff_cache \
		build ./*.egg-info

# Locked versions. dev.txt is resolved first, for all supported Pythons and systems at once. The other files are subsets
# of it, so that tests run against the versions that ship. `make lock UPGRADE=1` takes the newest.
COMPILE = $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-emit-index-url --custom-compile-command "make lock" --excludes requirements/excluded.txt \
	--no-emit-package digits --no-emit-package torch --no-emit-package torchvision $(if $(UPGRADE),--upgrade)

lock: $(INSTALLED) ## resolve requirements/*.txt again; UPGRADE=1 takes the newest versions
	$(COMPILE) --extra dev --output-file requirements/dev.txt
	for image in tracking accounts train serve run scale cluster search; do \
		$(COMPILE) --extra $$image --constraint requirements/dev.txt --output-file requirements/$$image.txt || exit; \
	done
	sed -n 's/^\([a-z].*\) \\$$/\1/p' requirements/dev.txt | grep -v '^python-dateutil==' | \
		$(COMPILE) --extra team --constraint /dev/stdin --output-file requirements/team.txt

# Two sets: `make run` installs what running needs; the other targets add the test tools and linters.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "digits needs Python 3.11 or newer; name one with PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

INSTALL = echo "installing $(1) into $(VENV) (once; about a minute)" && \
	$(BIN)/python .ci/install.py $(1) --torch-index "$(TORCH_INDEX_URL)"

$(RUNNABLE): requirements/run.txt requirements/torch.txt | $(VENV)/bin/python
	@$(call INSTALL,requirements/run.txt)
	@touch $@

$(INSTALLED): requirements/dev.txt requirements/torch.txt | $(VENV)/bin/python
	@$(call INSTALL,requirements/dev.txt)
	@touch $(RUNNABLE) $@

# `make` lists what there is. Every target works in a fresh clone that has Python 3.11 or newer and nothing else;
# those with "containers" in their description need Docker with Compose v2 as well.

PYTHON ?= python3
# Where pip takes torch from. The default is the CPU build; empty means pip's own index (on Linux: the CUDA build).
TORCH_INDEX_URL ?= https://download.pytorch.org/whl/cpu
SERVE_PORT ?= 3000

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# --quiet takes pip's progress bar away together with its line per package: keep both where someone is looking.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-input $(shell test -t 1 || echo --quiet)

.PHONY: help run test lint types unit test-stack bench-train bench-serve pictures format lock up down clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(INSTALLED) ## train unless this recipe, data and code did before, then serve on http://127.0.0.1:3000
	$(BIN)/python -m pipeline train
	MLFLOW_TRACKING_URI=$${MLFLOW_TRACKING_URI:-sqlite:///$${PIPELINE_STATE_DIR:-var}/mlflow.db} \
		BENTOML_HOME=$(CURDIR)/var/bentoml BENTOML_DO_NOT_TRACK=True \
		$(BIN)/bentoml serve serving.service:Digits --host 127.0.0.1 --port $(SERVE_PORT)

test: lint types unit ## everything that needs no container: lint, types, tests

lint: $(INSTALLED) ## style and formatting, by ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED) ## static types, by mypy
	$(BIN)/mypy

unit: $(INSTALLED) ## the tests alone; PYTEST_ARGS="-k gate" narrows them
	$(BIN)/python -m pytest -m "not stack and not browser" $(PYTEST_ARGS)

test-stack: $(INSTALLED) ## containers: build, train, serve, compare, take down (MNIST_DIR must be set); /draw in chromium
	$(BIN)/python -m pytest -m "stack or browser" --timeout 2700 tests/browser tests/stack $(PYTEST_ARGS)

bench-train: $(INSTALLED) ## time the chapter's loop against ours (MNIST_DIR must be set); BENCH_ARGS="--keras" adds Keras
	$(BIN)/python -m benchmarks.training $(BENCH_ARGS)

bench-serve: $(INSTALLED) ## time the service against others (needs wrk, two cores, a champion); BENCH_ARGS="--quick" is a trial
	$(BIN)/python -m benchmarks.serving $(BENCH_ARGS)

pictures: $(INSTALLED) ## draw docs/pictures: those of docs/how-it-works.md and of the champion's run
	$(BIN)/python -m pipeline.report.illustrations

format: $(INSTALLED) ## rewrite the code in ruff's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Compose wants a folder's full path, and an image has no repository to ask for its commit. Where training ends without a
# champion, its last line says why.
up: ## containers: build and start the whole flow; ends when the service is ready
	$(if $(MNIST_DIR),MNIST_DIR="$(abspath $(MNIST_DIR))") \
	GIT_COMMIT="$$(git describe --always --abbrev=40 --dirty --exclude='*' 2>/dev/null)" \
	docker compose up --build --detach --wait serve || \
		{ docker compose logs --no-log-prefix --tail 1 train; exit 1; }

down: ## containers: stop everything; the runs and models stay
	docker compose down

clean: ## remove the virtual environments and caches; the runs and models in var/ stay
	rm -rf $(VENV) $(VENV)-tensorflow $(VENV)-servers .mypy_cache .pytest_cache .ruff_cache build ./*.egg-info

# Locked versions. dev.txt is resolved first, for all supported Pythons and systems at once; the images' files are the
# parts of it that they need, so a test runs against the very versions that ship. `make lock UPGRADE=1` takes the newest.
COMPILE = $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-emit-index-url --custom-compile-command "make lock" --excludes requirements/excluded.txt \
	--no-emit-package digits --no-emit-package torch --no-emit-package torchvision $(if $(UPGRADE),--upgrade)

lock: $(INSTALLED) ## resolve requirements/*.txt anew; UPGRADE=1 takes the newest versions
	$(COMPILE) --extra dev --output-file requirements/dev.txt
	for image in tracking train serve; do \
		$(COMPILE) --extra $$image --constraint requirements/dev.txt --output-file requirements/$$image.txt || exit; \
	done

# An index of torch that does not answer must not end a fresh clone's first command: pip's own index has torch as well.
$(INSTALLED): requirements/dev.txt requirements/torch.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "digits needs Python 3.11 or newer; name one with PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked requirements into $(VENV) (once; a few minutes)"
	@$(PIP) --require-hashes --no-deps -r requirements/dev.txt
	@if [ -n "$(TORCH_INDEX_URL)" ] && \
		$(PIP) --index-url "$(TORCH_INDEX_URL)" --retries 1 --timeout 15 -r requirements/torch.txt; then :; else \
		echo "installing torch from pip's own index$(if $(TORCH_INDEX_URL), because $(TORCH_INDEX_URL) did not give it)"; \
		$(PIP) -r requirements/torch.txt; fi
	@touch $@

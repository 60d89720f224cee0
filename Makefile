# `make demo` and `make test` need nothing first but Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is imported is compiled once. To compile all that is installed takes longer than what it saves.
unexport PYTHONDONTWRITEBYTECODE
# Tests run side by side: a pool of threads in each of their processes would only wait for a core, and spin meanwhile.
test check test-faults test-deploy: export OMP_NUM_THREADS = 1

.DEFAULT_GOAL := help
.PHONY: help setup demo check test test-faults test-deploy bench bench-gpu docs lint format lock sbom clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/ready: pyproject.toml tests/requirements.txt tests/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r tests/uv.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r tests/requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

setup: $(VENV)/ready ## the environment, in .venv, all versions pinned by hash

demo: setup ## the whole loop on real data: broker, training, worker, a swap, a summary
	@$(BIN)/python -m worker demo

check: lint ## lint, types, and unit tests: two and a half minutes
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile tests/unit

test: setup ## all tests, on the most real Kafka to be had
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile tests/unit
	$(BIN)/python -m pytest -q -n 5 --dist worksteal tests/integration

test-faults: setup ## kills, broken brokers, hostile input, TLS and ACLs: FAULTS="--full", FAULTS="kill=100 --seed 1"
	$(BIN)/python -m pytest -q tests/faults --ignore tests/faults/test_field_data.py
	$(BIN)/python -m pytest -q -n 3 tests/faults/test_field_data.py
	$(BIN)/python -m tests.faults $(FAULTS)

test-deploy: setup ## the Helm chart, alert rules and dashboard: fetches helm, promtool and schemas where they are missing
	$(BIN)/python -m pytest -q tests/deploy

bench: setup ## throughput against a reference, latency, start, memory: writes build/bench.json
	$(BIN)/python -m tests.benchmarks

bench-gpu: setup ## rows a second on a CUDA device, if there is one
	@$(BIN)/python -m tests.benchmarks.gpu

docs: setup ## the documentation as a site, as Markdown, and llms.txt, in build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict -f docs/site/mkdocs.yml
	@echo build/site/index.html

lint: setup ## ruff, mypy, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: setup ## what ruff can put right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## pins anew, with hashes and without addresses
	$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header --extra arrow --extra avro --extra msk --extra otel --extra protobuf pyproject.toml -o deploy/requirements.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header --extra test -c deploy/requirements.txt pyproject.toml -o tests/requirements.txt
	echo uv | $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header - -o tests/uv.txt

sbom: setup ## the bill of materials of what is deployed, in CycloneDX: build/sbom.json
	@mkdir -p build
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --of JSON -o build/sbom.json deploy/requirements.txt
	@echo build/sbom.json

clean: ## away with what was made
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Sextet. `make help` lists the targets.
PYTHON ?= python3
DATA ?= .sextet
BIN := .venv/bin
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help up down test check fmt lint types layers proto lock unit e2e bench nightly clean venv dev

help: ## this list
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

venv: ## what a running cluster needs, in .venv
	@$(PYTHON) tools/bootstrap.py run

dev: venv ## and what tests and checks need
	@$(PYTHON) tools/bootstrap.py dev

up: venv ## start the cluster in .sextet and print its two URLs
	@$(BIN)/sextet up --data $(DATA)

down: venv ## stop it; the data stays
	@$(BIN)/sextet down --data $(DATA)

test: dev ## all tests (a few minutes on two cores)
	$(BIN)/pytest -q -n $(JOBS) --dist loadgroup tests --ignore tests/e2e
	$(BIN)/pytest -q tests/e2e

unit: dev ## the tests that start no processes
	$(BIN)/pytest -q -n $(JOBS) tests --ignore tests/e2e

e2e: dev ## the tests with real processes
	$(BIN)/pytest -q tests/e2e

check: lint types layers generated test ## what a change must pass

lint: dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: dev
	$(BIN)/mypy

layers: dev
	$(BIN)/lint-imports

generated: dev
	$(BIN)/python tools/gen_proto.py --check

fmt: dev ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: dev ## regenerate engine/net/pb from proto/
	$(BIN)/python tools/gen_proto.py

bench: dev ## measure this machine; writes benchmarks/results/ (docs/measurements.md)
	$(BIN)/python -m benchmarks.recovery
	$(BIN)/python -m benchmarks.redo_bytes

nightly: dev ## long property runs (about half an hour)
	SEXTET_HYPOTHESIS=nightly $(BIN)/pytest -q -n $(JOBS) tests/properties

lock: ## resolve dependencies again into requirements/
	$(PYTHON) -m venv .venv-lock && .venv-lock/bin/pip install -q uv
	for set in run dev; do .venv-lock/bin/uv pip compile --universal --python-version 3.11 \
	  --generate-hashes --no-annotate -q --custom-compile-command "make lock" \
	  $$(test $$set = dev && echo --extra dev) pyproject.toml -o requirements/$$set.lock; done
	rm -rf .venv-lock

clean: ## remove .venv and caches (not the data in .sextet)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

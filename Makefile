# What a user needs is `make up` and `make test`. `make help` lists the rest.
#
# PYTHON=python3.12  another interpreter        ARGS="..."  passed on to sextet or pytest

PYTHON ?= python3
BIN := .venv/bin
SOURCES := engine cluster tests tools examples benchmarks

# A test that hangs ends the run, with every thread's stack, instead of holding it for ever.
PYTEST := $(BIN)/python -m pytest -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true

.DEFAULT_GOAL := help
.PHONY: help up down test long sim nightly e2e check bench profile mutants lint fmt proto lock clean run-venv dev-venv

help: ## show this list
	@sed -n 's/^\([a-z0-9]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST)

# -- for users

up: run-venv ## install into .venv and start a cluster (ARGS="--readers 1 --port 26000")
	@$(BIN)/sextet up $(ARGS)

down: ## stop the cluster; its data stays in .sextet
	@if [ -x $(BIN)/sextet ]; then $(BIN)/sextet down $(ARGS); else echo "nothing is installed here"; fi

test: dev-venv ## run all tests but the longest (ARGS="-k name" for some)
	$(PYTEST) -n 2 --dist loadfile -m "not long" $(ARGS)

sim: run-venv ## run 300 simulated clusters under faults (ARGS="--seeds 301..600" for others)
	$(BIN)/sextet sim --seeds 1..300 $(ARGS)

# -- for developers

nightly: dev-venv ## run 3,000 simulated clusters and the machines of faults and clones at length, over an hour on two CPUs
	$(BIN)/sextet sim --seeds 1..3000 --complete 50 $(ARGS)
	SEXTET_HYPOTHESIS=nightly $(PYTEST) tests/properties/test_simulated_cluster.py tests/properties/test_clones.py

long: dev-venv ## run the tests that `make test` leaves out, about ten minutes
	$(PYTEST) -m long $(ARGS)

e2e: dev-venv ## run only the tests that start real processes, the longest included
	$(PYTEST) -m e2e $(ARGS)

check: lint test ## what a change must pass: format, lint, types, layers, generated code, tests

bench: dev-venv ## measure against PostgreSQL, about half an hour (ARGS="--rounds 1 --seconds 5 --only update")
	$(BIN)/python -m benchmarks.bench $(ARGS)

profile: dev-venv ## where a commit's CPU goes, process by process (ARGS="--script simple-update --only writer")
	$(BIN)/python -m benchmarks.profile $(ARGS)

mutants: dev-venv ## hunt planted bugs in the simulator (ARGS="three-of-six --jobs 1 --seeds 50")
	$(BIN)/python -m tests.mutants.hunt $(ARGS)

lint: dev-venv ## all of check but the tests
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/gen_proto.py --check

fmt: dev-venv ## format, and fix what the linter can fix
	$(BIN)/ruff check --fix --exit-zero --quiet $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

proto: dev-venv ## generate engine/net/pb from proto/
	$(BIN)/python tools/gen_proto.py

lock: run-venv ## resolve pyproject.toml into requirements/*.lock (ARGS=--upgrade for newer versions)
	$(BIN)/python tools/lock.py $(ARGS)

clean: down ## stop the cluster, delete .venv and caches; data stays
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# tools/bootstrap.py looks whether what stands in .venv was made from the lock file as it is now.

run-venv:
	@$(PYTHON) tools/bootstrap.py run

dev-venv:
	@$(PYTHON) tools/bootstrap.py dev

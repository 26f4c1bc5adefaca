.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
WHEELS ?= wheels
# A machine with a GPU may be offline: `make gpu-check PYTHON=python3` makes no .venv.
OWN := $(filter-out file,$(origin PYTHON))

.PHONY: help setup demo test test-cluster test-faults test-processors test-sweeps check bench bench-gpu gpu-check format clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# Only what the program itself needs: a demo should not wait for test servers.
.venv/run: constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/test: .venv/run
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

setup: .venv/test  ## create .venv with everything for running and testing

demo: .venv/run  ## score the packaged reviews with the packaged model, show what came out
	$(BIN)/bertbatch run jobs/reviews.yaml
	$(BIN)/python examples/show.py out/reviews

test: .venv/test  ## run the tests (minutes)
	$(BIN)/python -m pytest

test-cluster: .venv/test  ## run the tests with clusters of several nodes (minutes)
	$(BIN)/python -m pytest -m cluster

test-faults: .venv/test  ## run every fault (half an hour)
	$(BIN)/python -m pytest -m faults

test-processors: .venv/test  ## run the engines' tests under lower instruction sets (minutes)
	$(BIN)/python -m tests.helpers.processors

test-sweeps: .venv/test  ## run every architecture and thousands of odd model folders (minutes)
	$(BIN)/python -m pytest -m sweep

check: .venv/test  ## lint, format check, types, known vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python recipes/audit.py

.venv/bench: .venv/test
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

bench: .venv/bench  ## compare with the alternatives, side by side (long)
	$(BIN)/python -m benchmarks.compare
	$(BIN)/python -m benchmarks.attention

gpu-check: $(if $(OWN),,.venv/test)  ## on a GPU: the CPU's answers, packed, out of memory, tokens/s
	$(if $(OWN),$(PYTHON),$(BIN)/python) -m recipes.gpu_check --wheels $(WHEELS)

bench-gpu: .venv/test  ## on a GPU: tokens/s by model, workload and budget
	$(BIN)/python -m benchmarks.gpu

format: .venv/test  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what the other targets made
	rm -rf .venv out build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

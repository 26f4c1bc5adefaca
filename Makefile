.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
WHEELS ?= wheels
# A machine with a GPU may be offline: `make gpu-check PYTHON=python3` makes no .venv.
OWN := $(filter-out file,$(origin PYTHON))

.PHONY: help setup demo test test-cluster test-faults test-kernels test-processors test-release test-sweeps check site dist
.PHONY: bench bench-gpu gpu-check format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

# Only what the program itself needs: a demo should not wait for test servers.
KERNELS := setup.py bertbatch/native/build.py $(wildcard bertbatch/native/*.h bertbatch/native/*.cpp)
.venv/run: constraints.txt pyproject.toml $(KERNELS)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/test: .venv/run
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

setup: .venv/test  ## create .venv with everything needed to run and test

demo: .venv/run  ## score the packaged reviews with the packaged model and show the result
	$(BIN)/bertbatch run jobs/reviews.yaml
	$(BIN)/python examples/show.py out/reviews

# A file's tests share models; two processes, since many tests wait.
test: .venv/test  ## run the tests (minutes)
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-cluster: .venv/test  ## run the tests that need a cluster of several nodes (minutes)
	$(BIN)/python -m pytest -m cluster

test-faults: .venv/test  ## run every fault test (half an hour)
	$(BIN)/python -m pytest -m faults

test-processors: .venv/test  ## run the engine tests under lower instruction sets (minutes)
	$(BIN)/python -m tests.helpers.processors

.venv/kernels: .venv/test
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[kernels]'
	touch $@

test-kernels: .venv/kernels  ## test the Triton kernels without a GPU: their arithmetic, and that they compile (minutes)
	TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/attention/test_fused_arithmetic.py tests/attention/test_relative_kernel.py
	$(BIN)/python -m pytest tests/attention/test_fused_compiled.py

test-sweeps: .venv/test  ## test every architecture and thousands of damaged model folders, every task with everything (hours)
	$(BIN)/python -m pytest -m sweep

test-release: .venv/test  ## test what `make dist` builds, and the image's installation, without the checkout (minutes)
	$(BIN)/python -m pytest -m release

check: .venv/test  ## check lint, format, types, the documentation's links and known vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m recipes.website
	$(BIN)/python recipes/audit.py

site: .venv/test  ## build the documentation as a site, in build/site
	$(BIN)/python -m recipes.website

dist: .venv/test  ## build the wheel and the sdist into dist/
	$(BIN)/python -m recipes.dist

.venv/bench: .venv/test
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

bench: .venv/bench  ## compare with the alternatives, side by side (long)
	$(BIN)/python -m benchmarks.compare
	$(BIN)/python -m benchmarks.attention

gpu-check: $(if $(OWN),,.venv/test)  ## on a GPU: check answers, packing and out of memory, measure tokens/s
	$(if $(OWN),$(PYTHON),$(BIN)/python) -m recipes.gpu_check --wheels $(WHEELS)

bench-gpu: .venv/test  ## on a GPU: measure tokens/s by model, workload and budget
	$(BIN)/python -m benchmarks.gpu

format: .venv/test  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## delete what the other targets created
	rm -rf .venv out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# svdjobs: `make help` lists what can be done. Everything runs in .venv, made by `make setup`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
LOCK   := images/locks/cpu.lock
UV     := uv==0.13.9
TESTS  ?= tests
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo train-demo test lint format typecheck render verify bench lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## create the environment: .venv with every dependency pinned by hash

$(STAMP): $(LOCK) pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(UV)'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r $(LOCK)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP) ## run a whole sweep on the checkpoints that ship with the project, into runs/demo
	$(BIN)/svdjobs sweep jobs/sweeps/demo.yaml

train-demo: $(STAMP) ## train the shipped demo checkpoints again (minutes)
	$(BIN)/python -m svdjobs.demo.train

test: $(STAMP) ## run all tests
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(TESTS)

lint: $(STAMP) ## check style and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## reformat, and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(STAMP) ## check types (mypy, strict)
	$(BIN)/mypy

render: $(STAMP) ## write workflows/, jobs/kubernetes/ and what is generated of the chart again
	$(BIN)/svdjobs workflow render jobs/sweeps/demo.yaml --settings workflows/settings.yaml
	$(BIN)/python -m tests.helm.golden

verify: render lint typecheck test ## regenerate everything, check everything, and end clean
	git diff --exit-code -- workflows jobs helm tests/helm/golden

bench: $(STAMP) ## time svdjobs against the usual procedures, side by side; also runs/bench.json
	$(BIN)/python -m tests.benchmarks.sweep
	$(BIN)/python -m tests.benchmarks.evaluation
	$(BIN)/python -m tests.benchmarks.grading

lock: $(STAMP) ## compile images/locks/cpu.lock again from cpu.in
	cd images/locks && ../../$(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --override overrides.txt cpu.in -o cpu.lock

clean: ## remove what running leaves behind, but not the environment
	rm -rf runs gen_results logs .pytest_cache .mypy_cache .ruff_cache .hypothesis

# `make help` lists the targets. Everything runs in .venv, which `make setup` creates.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
TESTS  ?= tests
# vLLM's build in .venv: GPU=1 installs the CUDA build, GPU=0 the CPU build. Without GPU, the installed build stays.
HAS    := $(firstword $(patsubst $(VENV)/.installed-%,%,$(wildcard $(VENV)/.installed-*)) cpu)
BUILD  := $(if $(filter 1,$(GPU)),gpu,$(if $(filter 0,$(GPU)),cpu,$(HAS)))
LOCK   := images/locks/$(BUILD).lock
STAMP  := $(VENV)/.installed-$(BUILD)
COMPILE = $(abspath $(BIN))/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header

# Images: `make images push REGISTRY=registry.example/team`; IMAGES="cpu plan" builds only these.
include images/versions.env
IMAGES   ?= plan fetch decompose blend rotations metrics evaluate drop-weights report gate
REGISTRY ?= localhost
VERSION  := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
TAG      ?= $(VERSION)
COMMIT    = $(shell git rev-parse HEAD)$(shell git diff --quiet HEAD -- svdjobs || echo +dirty)
BUILDER  ?= $(shell docker info >/dev/null 2>&1 && echo docker || basename "$$(command -v podman || command -v buildah)")
export BUILDAH_LAYERS := true

# Programs that tests run and no Python package contains. Debian's packages have the same names.
PROGRAMS := buildah podman runc chromium
MISSING   = $(foreach program,$(PROGRAMS),$(if $(shell command -v $(program)),,$(program)))

.DEFAULT_GOAL := help
.PHONY: help setup programs demo train-demo test test-exports test-cluster fuzz faults lint format typecheck render verify bench bench-gpu docs-figures lock images push clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## create .venv, every dependency pinned by hash; with GPU=1 for NVIDIA GPUs, GPU=0 for CPUs again

# `uv pip sync` removes packages that are not in the lock before it installs. vLLM's two builds need
# this order: both own the folder `vllm`.
$(STAMP): $(LOCK) images/locks/tools.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "svdjobs needs Python 3.11 or newer: run make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	sed -n '/^uv==/,/^    #/p' images/locks/tools.lock | $(BIN)/python -m pip install --quiet \
	  --disable-pip-version-check --no-deps --require-hashes -r /dev/stdin
	@rm -f $(VENV)/.installed*
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes $(LOCK)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

programs: ## install the programs that tests use, so that fewer tests skip (Debian's apt, as root)
	$(if $(strip $(MISSING)),apt-get update --quiet && DEBIAN_FRONTEND=noninteractive \
	  apt-get install --quiet --yes --no-install-recommends $(MISSING))

demo: $(STAMP) ## run a whole sweep on the demo checkpoints, into runs/demo
	$(BIN)/svdjobs sweep jobs/sweeps/demo.yaml

train-demo: $(STAMP) ## train the demo checkpoints again (minutes)
	$(BIN)/python -m svdjobs.demo.train

test: $(STAMP) ## run all tests but those that need a cluster
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder -m 'not cluster' $(TESTS)

# Other tools' libraries have other pins, so they have an environment of their own.
.venv-exports/.installed: images/locks/exports.lock | $(STAMP)
	$(PYTHON) -m venv .venv-exports
	$(BIN)/uv pip sync --quiet --python .venv-exports/bin/python --require-hashes images/locks/exports.lock
	@touch $@

test-exports: $(STAMP) .venv-exports/.installed ## open exports of a run with the tools' own libraries
	$(BIN)/python -m pytest tests/exports

test-cluster: $(STAMP) ## run the tests that need a cluster: KUBECONFIG's, or the one that SVDJOBS_CLUSTER starts
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m cluster --durations=15 tests/live

fuzz: $(STAMP) ## read 10,000 mutated checkpoints, and compare with the safetensors library (SEED=1 COUNT=10000)
	$(BIN)/python -m tests.fuzz.headers --seed $(or $(SEED),0) --count $(or $(COUNT),10000)

faults: $(STAMP) ## kill, race and disconnect small sweeps, and compare their bytes (SEED=1 COUNT=5)
	$(BIN)/python -m tests.fuzz.faults --seed $(or $(SEED),0) --count $(or $(COUNT),5)

lint: $(STAMP) ## check style and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## format the code, and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(STAMP) ## check types (mypy, strict)
	$(BIN)/mypy

render: $(STAMP) ## write workflows/, jobs/kubernetes/, docs/metrics.md, docs/config.md, the schema of sweeps and the generated parts of images/ and the chart again
	$(BIN)/python -m tests.rendered
	$(BIN)/python -m tests.from_pipeline
	$(BIN)/python -m tests.metrics_page
	$(BIN)/python -m tests.config_page
	$(BIN)/python -m tests.helm.golden

verify: render lint typecheck test ## write the generated files again and run all checks; fail if a generated file changed
	git diff --exit-code -- workflows jobs helm images docs/metrics.md docs/config.md tests/helm/golden

bench: $(STAMP) ## time svdjobs against the usual procedures, side by side; also runs/bench.json
	$(BIN)/python -m tests.benchmarks.sweep
	$(BIN)/python -m tests.benchmarks.evaluation
	$(BIN)/python -m tests.benchmarks.reading
	$(BIN)/python -m tests.benchmarks.grading
	$(BIN)/python -m tests.benchmarks.report

bench-gpu: $(STAMP) ## time decompositions and blends on a GPU beside the CPUs; also runs/bench-gpu.json
	$(BIN)/python -m tests.benchmarks.gpu

docs-figures: $(STAMP) ## measure again the numbers that the docs quote: the demo, and the results of `make bench`
	$(BIN)/python -m tests.benchmarks.figures

lock: $(STAMP) ## compile images/locks/*.lock again from their .in files
	cd images/locks && $(COMPILE) --python-version 3.11 --override overrides.txt cpu.in -o cpu.lock
	cd images/locks && $(COMPILE) --python-version 3.11 --override overrides.txt --constraint cpu.lock stages.in -o stages.lock
	for name in core gate analysis plan report numerics; do (cd images/locks \
	  && $(COMPILE) --python-version 3.11 --override overrides.txt --constraint stages.lock $$name.in -o $$name.lock) || exit; done
	cd images/locks && $(COMPILE) --python-version 3.11 --constraint stages.lock numerics.in -o numerics-cuda.lock
	cd images/locks && $(COMPILE) --python-version 3.11 --constraint stages.lock gpu.in -o gpu.lock
	cd images/locks && $(COMPILE) --python-version 3.11 tools.in -o tools.lock
	cd images/locks && $(COMPILE) --python-version 3.11 exports.in -o exports.lock
	cd images/locks && grep '^vllm==' evaluate.in | $(COMPILE) --python-version 3.11 --no-annotate - \
	  | sed -n 's/^\([a-z0-9-]*\)==.*/--no-emit-package \1/p' \
	  | xargs $(COMPILE) --python-version 3.11 evaluate.in -o evaluate.lock
	sed -i '/^# The following packages were excluded/,$$d' images/locks/evaluate.lock

images: $(IMAGES:%=image-%) ## build the image of each stage with docker, podman or buildah (IMAGES=cpu: for CPUs)

push: $(IMAGES:%=push-%) ## push these images

push-%: NAME = $(REGISTRY)/svdjobs$(patsubst %,-%,$(filter-out cpu,$*))
push-%: ; $(BUILDER) push $(NAME):$(TAG)

image-%: NAME = $(REGISTRY)/svdjobs$(patsubst %,-%,$(filter-out cpu,$*))
image-%:
	$(if $(BUILDER),,$(error docker does not answer, and podman and buildah are missing. Install one of them, or give BUILDER=path))
	$(BUILDER) build $(BUILD_FLAGS) --file images/Dockerfile --target $* --tag $(NAME):$(TAG) \
	  --build-arg PYTHON_IMAGE=$(PYTHON_IMAGE) --build-arg VLLM_IMAGE=$(VLLM_IMAGE) \
	  --build-arg VERSION=$(VERSION) --build-arg GIT_COMMIT=$(COMMIT) .
	$(BUILDER) images $(NAME):$(TAG)

clean: ## remove runs, results, logs and caches, but not .venv
	rm -rf runs gen_results logs .pytest_cache .mypy_cache .ruff_cache .hypothesis

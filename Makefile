# Two commands on a fresh machine with Python >= 3.11, venv and make: `make run` and `make test`.
#
# PYTHON       the interpreter that makes the environment (python3)
# VENV         where the environment goes (.venv); later calls reuse it
# TORCH_INDEX  the address of a package index with CPU builds of torch, for machines without a GPU (none)

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet --quiet
SPREAD = --numprocesses auto --dist loadfile
TORCH = $(shell sed -n 's/^torch==//p' constraints.txt)

.PHONY: help run smoke test test-all check package clean
.DELETE_ON_ERROR:

help:
	@echo "make run       install, then images -> model -> report in out/miniature (about 5 minutes on two cores)"
	@echo "make smoke     the same at toy size, in out/smoke (under a minute)"
	@echo "make test      install, then lint, types and the quick tests"
	@echo "make test-all  the same with the slow tests"
	@echo "make package   build the wheel, install it elsewhere, run the smoke path there, resolve every extra for a CPU"
	@echo "make clean     remove the environment and the caches; out/ stays"

run: $(VENV)/.installed
	$(BIN)/tessera run miniature --out out/miniature

smoke: $(VENV)/.installed
	$(BIN)/tessera run miniature-smoke --out out/smoke

test: check
	$(BIN)/python -m pytest $(SPREAD) -m "not slow"

test-all: check
	$(BIN)/python -m pytest $(SPREAD)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

package: $(BIN)/python
	$(BIN)/python scripts/check_package.py $(TORCH_INDEX:%=--torch-index %)

# Without a GPU a CPU build of torch is asked for first: the default build brings gigabytes of CUDA packages on Linux.
# Only when the package indexes have none is the default build taken; any other failure stops here.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@if command -v nvidia-smi >/dev/null 2>&1; then exit 0; fi; \
	echo "Installing torch $(TORCH) for the CPU ..."; \
	$(PIP) "torch==$(TORCH)+cpu" $(TORCH_INDEX:%=--extra-index-url %) 2>$(VENV)/torch.log && exit 0; \
	if grep -q -e "No matching distribution" -e "ResolutionImpossible" $(VENV)/torch.log; then \
		echo "No package index here has a CPU build of it (see TORCH_INDEX in README.md): taking the default build."; \
	else cat $(VENV)/torch.log >&2; exit 1; fi
	@echo "Installing tessera ..."
	@$(PIP) --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the tools for tests ..."
	@$(PIP) --constraint constraints.txt --editable ".[dev]"
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("tessera needs Python 3.11 or newer: make PYTHON=python3.12 ..." \
		if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -not -path "./out/*" -prune -exec rm -rf {} +

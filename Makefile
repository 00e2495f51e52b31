# Two commands on a fresh machine with Python >= 3.11, venv and make: `make run` and `make test`.
#
# PYTHON       the interpreter that makes the environment (python3)
# VENV         where the environment goes (.venv); later calls reuse it
# TORCH_INDEX  the address of a package index with CPU builds of torch, for Linux without a GPU (PyTorch's own)
# GPU          1: the default build of torch, with CUDA on Linux (1 where there is an nvidia-smi)
# SYSTEM       the system and the processor, as uname has them (this machine's)

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
GPU ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo 1)
SYSTEM ?= $(shell uname -sm)

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
INSTALL = $(PIP) install --constraint constraints.txt
SPREAD = --numprocesses auto --dist loadfile
TORCH = $(shell sed -n 's/^torch==//p' constraints.txt)

.PHONY: help run smoke test test-all check package clean
.DELETE_ON_ERROR:

help:
	@echo "make run       install, then images -> model -> report in out/miniature (5 to 10 minutes on two cores)"
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
	$(BIN)/hadolint Dockerfile

package: $(BIN)/python
	$(BIN)/python scripts/check_package.py $(TORCH_INDEX:%=--torch-index %)

# The default build of torch brings CUDA on Linux x86_64 alone, 2.7 GB of it. Without a GPU a CPU build is asked for
# there: at the package indexes of pip's own configuration, then at TORCH_INDEX too, which has 20 s to answer. Only when
# none has it is the default build taken, after a question where somebody can answer; any other failure stops here.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@if [ "$(SYSTEM)" != "Linux x86_64" ]; then exit 0; fi; \
	if [ -z "$(GPU)" ]; then \
		echo "Installing torch $(TORCH) for the CPU, about 0.2 GB ..."; \
		for index in "" $(TORCH_INDEX); do \
			$(PIP) install "torch==$(TORCH)+cpu" $${index:+--extra-index-url $$index --timeout 10 --retries 1} \
				2>$(VENV)/torch.log && exit 0; \
			if ! grep -q -e "No matching distribution" -e "ResolutionImpossible" $(VENV)/torch.log; then \
				cat $(VENV)/torch.log >&2; exit 1; fi; done; \
		echo "No CPU build of it was found, at $(TORCH_INDEX) either; TORCH_INDEX=https://... names another index."; \
		if [ -t 0 ]; then \
			printf "Take the default build with CUDA, about 2.7 GB in 27 packages? [y/N] "; \
			read -r answer; case "$$answer" in [yY]*) ;; *) exit 1;; esac; fi; fi; \
	echo "Installing torch $(TORCH) with CUDA, about 2.7 GB in 27 packages ..."; \
	$(INSTALL) torch
	@echo "Installing tessera ..."
	@$(INSTALL) --quiet --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the tools for tests ..."
	@$(INSTALL) --quiet --quiet --editable ".[dev]"
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("tessera needs Python 3.11 or newer: make PYTHON=python3.12 ..." \
		if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -not -path "./out/*" -prune -exec rm -rf {} +

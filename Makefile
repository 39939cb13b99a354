# Two commands: `make pretrain` (raw text to a BERT in PyTorch) and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/quickstart
# Processes that test side by side; each takes 3 GB at most.
WORKERS ?= 2

.PHONY: help install pretrain lint test test-slow clean

help:
	@echo "make pretrain   prepare a corpus from this machine's Python documentation, train a small BERT on it, export it"
	@echo "make lint       ruff and mypy: style, format, types (seconds)"
	@echo "make test       the tests (minutes); make test-slow: those with many processes and long runs"

# The stamps hold the files that decide what is installed; a change installs again.
$(VENV)/installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(VENV)/installed

pretrain: install
	$(BIN)/python -m bert_jax pretrain --config=configs/quickstart.py --workdir=$(WORKDIR)
	$(BIN)/python -m bert_jax fill-mask --model=$(WORKDIR)/export --top_k=3 \
	  "Returns the [MASK] of the array." "If the file does not [MASK], an error is raised." "This [MASK] is deprecated."

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(VENV)/installed-test
	$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile --durations=10 -m "not slow and not alone"
	$(BIN)/python -m pytest --durations=10 -m "alone and not slow"

test-slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf $(VENV) build *.egg-info

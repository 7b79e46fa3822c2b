# Every target does its own set-up in .venv; nothing has to be installed by hand except Python 3.11+ and make.
#   make demo     the whole method on real input, report in runs/demo
#   make test     ruff, pyright and the test-suite
#   make test-newest  the test-suite on the newest Python found (3.13 or 3.12), in .venv-newest
#   make parity   comparison with the torch reference implementations (installs torch in .venv)
#   make sharding every stage, update and rollout on every mesh of 8 host devices
#   make aot      compiles training steps for TPUs and NVIDIA cards that are not attached (installs the compilers in .venv)
#   make processes  every stage and RL in two processes against one
#   make real     whole runs from made-up raw files of MMRole and PCogAlignBench, with a judge, and of a tiny Qwen3-VL
#   make soak     small runs that are killed at random steps and resumed
#   make bench    the benchmark suite;   make bench-accelerator   what a GPU or TPU that is at hand can do
#   make reproduce  the paper's core comparison at tiny scale, hours to days; goes on where it stopped
#   make ablations  parts of the method, data and codebook; likewise
#   make docs     the site in site/, and every code block of the pages
#   make lint     ruff and pyright only;   make format  rewrites the sources
#   make setup    only the environment that `make test` uses

SHELL := /bin/bash
# The first Python that is at least 3.11 and can make virtual environments; override with `make PYTHON=/path/to/python`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
    $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
# The newest one, for `make test-newest`: another jax than that of 3.11. A shim of pyenv that starts nothing is none.
NEWEST ?= $(shell for p in python3.13 python3.12; do \
    $$p -c 'import sys, venv, ensurepip' 2>/dev/null && { echo $$p; break; }; done)
NEWEST_VENV ?= .venv-newest
# What `.ci/run` takes of it: the C kernel, decoding, every training step.
IN_BRIEF := tests/nn tests/rollout tests/train/test_stages.py tests/rewards/test_review_tables.py
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Two workers: compilation by XLA, which most of the time goes to, uses one core each.
WORKERS ?= 2
DEMO_ARGS ?=
PYTEST_ARGS ?=
SOAK_ARGS ?=
BENCH_ARGS ?=
REPRODUCE_ARGS ?=

.PHONY: demo test test-newest test-newest-in-brief newest-venv newest parity sharding aot processes real soak bench bench-accelerator reproduce ablations docs lint format setup clean
.DEFAULT_GOAL := setup

$(VENV)/.stamp-venv:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer with venv and ensurepip was found;" \
	  "install one (for example: apt-get install python3.11-venv) or run make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# One stamp for each set of extras: a second run costs nothing, a changed pyproject.toml installs again.
$(VENV)/.stamp-demo: $(VENV)/.stamp-venv pyproject.toml
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.stamp-test: $(VENV)/.stamp-venv pyproject.toml
	$(PIP) install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.stamp-demo

$(VENV)/.stamp-parity: $(VENV)/.stamp-test
	$(PIP) install --quiet --editable '.[test,parity]'
	@touch $@

$(VENV)/.stamp-aot: $(VENV)/.stamp-test
	$(PIP) install --quiet --editable '.[test,aot,aot-gpu]'
	@touch $@

$(VENV)/.stamp-bench: $(VENV)/.stamp-venv pyproject.toml
	$(PIP) install --quiet --editable '.[bench]'
	@touch $@

$(VENV)/.stamp-docs: $(VENV)/.stamp-test
	$(PIP) install --quiet --editable '.[test,docs]'
	@touch $@

setup: $(VENV)/.stamp-test

demo: $(VENV)/.stamp-demo
	$(BIN)/lam-jax demo $(DEMO_ARGS)

lint: $(VENV)/.stamp-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.stamp-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	$(BIN)/python -m pytest tests -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

newest-venv:
	@test -n "$(NEWEST)" || { echo "make: no Python 3.13 or 3.12 with venv and ensurepip was found;" \
	  "run make $(MAKECMDGOALS) NEWEST=/path/to/python3.13"; exit 2; }
	$(MAKE) --no-print-directory setup PYTHON=$(NEWEST) VENV=$(NEWEST_VENV)

test-newest: newest-venv
	$(NEWEST_VENV)/bin/python -m pytest tests -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-newest-in-brief: newest-venv
	$(NEWEST_VENV)/bin/python -m pytest $(IN_BRIEF) -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

# For .ci/run: what `test-newest` would take, or nothing.
newest:
	@echo $(NEWEST)

parity: $(VENV)/.stamp-parity
	$(BIN)/python -m pytest tests/parity -m '' -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

# With pytest's capture of file descriptors, what XLA says before it aborts a worker would be lost with the worker.
sharding: $(VENV)/.stamp-test
	$(BIN)/python -m pytest tests/sharding -m '' -n $(WORKERS) --dist loadgroup --capture=sys $(PYTEST_ARGS)

aot: $(VENV)/.stamp-aot
	$(BIN)/python -m pytest tests/aot -m '' $(PYTEST_ARGS)

processes: $(VENV)/.stamp-test
	$(BIN)/python -m pytest tests/processes -m '' $(PYTEST_ARGS)

real: $(VENV)/.stamp-test
	$(BIN)/python -m pytest tests/end_to_end -m real $(PYTEST_ARGS)

soak: $(VENV)/.stamp-test
	$(BIN)/python -m tests.soak $(SOAK_ARGS)

# Alone on the machine: other work is noticed and waited for. The README's table comes out at the end.
bench: $(VENV)/.stamp-bench
	$(BIN)/python -m benchmarks.all $(BENCH_ARGS)

# On the accelerator that is at hand; `BENCH_ARGS='--minutes 20 --out folder'` for more time, or to go on.
bench-accelerator: $(VENV)/.stamp-venv
	$(PIP) install --quiet --editable .
	$(BIN)/python -m benchmarks.accelerator --out benchmarks/results/accelerator $(BENCH_ARGS)

# `REPRODUCE_ARGS=--list` for the cells and the time that is left.
ablations: $(VENV)/.stamp-demo
	$(BIN)/python -m experiments.ablations
	$(BIN)/lam-jax table experiments/results/ablations

reproduce: $(VENV)/.stamp-demo
	$(BIN)/python -m experiments.reproduce $(REPRODUCE_ARGS)
	$(BIN)/lam-jax table experiments/results/reproduce

docs: $(VENV)/.stamp-docs
	$(BIN)/python -m experiments.command_reference docs/commands.md
	$(BIN)/mkdocs build --strict --quiet
	$(BIN)/python -m pytest tests/docs -m '' $(PYTEST_ARGS)

clean:
	rm -rf $(VENV) $(NEWEST_VENV) site docs/commands.md .jax_cache .pytest_cache .ruff_cache build dist *.egg-info

# Every target honours N2G_HOME (where data goes; default .n2g beside this file), an already active environment, and VENV=.
PYTHON ?= python3
VENV ?= $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),.venv)
N2G_HOME ?= .n2g
override N2G_HOME := $(abspath $(N2G_HOME))
export N2G_HOME
export DAGSTER_HOME := $(N2G_HOME)/dagster
# Packages are installed uncompiled: what is imported is compiled once and kept, or every process would do it again.
export PYTHONDONTWRITEBYTECODE :=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile
READY := $(VENV)/.n2g_assets
READY_DEV := $(VENV)/.n2g_assets_dev
# A test process a core, four at most; the tests of a group share a process, and with it their fixtures (conftest.py).
PARALLEL := -n auto --maxprocesses 4 --dist loadgroup --no-loadscope-reorder
LIBRARIES := $(VENV)/libraries
# nnsight, which dictionary-learning imports, changes Python's object: what imports beartype has to come before it.
OF_LIBRARIES := test_train_encoder.py test_encoders_of_libraries.py

.PHONY: help demo explore test coverage machines libraries libraries_there recompute ui lint format docs bench clean

help: ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "No environment could be made: install Python's venv module (python3-venv on Debian)."; exit 1; }

$(READY): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) (one to two minutes) ..."
	@$(PIP) --upgrade pip
	@$(PIP) --constraint constraints.txt --editable .
	@touch $@

$(READY_DEV): $(READY)
	@$(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY) ## materialize the study `demo` and its control, and show what came out
	@$(BIN)/n2g demo

explore: $(READY) ## the pages of all published studies, on a local port (PORT=8777)
	@$(BIN)/n2g explore $(addprefix --port ,$(PORT))

test: $(READY_DEV) ## run the tests
	@$(BIN)/python -m pytest $(PARALLEL)

coverage: $(READY_DEV) ## run the tests and count the lines of the package that they reach
	@$(BIN)/python -m pytest $(PARALLEL) --cov=n2g_assets --cov-report=term

machines: $(READY_DEV) ## run a tiny study on two hosts, and on two workers of which one is killed (needs RabbitMQ and Postgres)
	@N2G_NEED_SERVERS=1 $(BIN)/python -m pytest -k 'two_workers or two_hosts' n2g_assets_tests/assets/test_executors.py

$(LIBRARIES)/.there: n2g_assets_tests/model/libraries.txt $(READY_DEV)
	@$(PIP) --no-deps --upgrade --target $(LIBRARIES) --requirement $<
	@touch $@

libraries_there: $(LIBRARIES)/.there

libraries: libraries_there ## compare encoders with what the libraries that write them compute
	@PYTHONPATH=$(LIBRARIES) N2G_NEED_LIBRARIES=1 $(BIN)/python -m pytest $(addprefix n2g_assets_tests/model/,$(OF_LIBRARIES))

recompute: $(READY_DEV) ## run the model again on what the demo stored, and predict it again slowly
	@$(BIN)/python -m n2g_assets_tests.recomputation

ui: $(READY) ## open the Dagster UI on a local port (PORT=3000)
	@$(BIN)/n2g ui $(addprefix --port ,$(PORT))

lint: $(READY_DEV) ## style, types and the Dagster project
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/n2g init >/dev/null
	@$(BIN)/dg check defs --use-active-venv

format: $(READY_DEV) ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(READY) ## bring the generated pages of docs up to date
	@$(BIN)/python -m n2g_assets.docs

bench: demo $(READY_DEV) ## measure, on what the demo stores: one table, and bench.json in N2G_HOME (ONLY=predict)
	@$(BIN)/python benchmarks/bench.py $(addprefix --only ,$(ONLY))

clean: ## remove the environment's marks; data in N2G_HOME stays
	@rm -f $(READY) $(READY_DEV)

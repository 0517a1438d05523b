# Every target honours N2G_HOME (where data goes; default .n2g beside this file), an already active environment, and VENV=.
PYTHON ?= python3
VENV ?= $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),.venv)
export N2G_HOME ?= $(CURDIR)/.n2g
export DAGSTER_HOME := $(N2G_HOME)/dagster
PORT ?= 3000
BIN := $(VENV)/bin
READY := $(VENV)/.n2g_assets

.PHONY: help demo test ui lint format readme bench clean

help: ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (one to three minutes) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade pip
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(DAGSTER_HOME)/dagster.yaml: dagster.yaml
	@mkdir -p $(DAGSTER_HOME)
	@cp $< $@

demo: $(READY) $(DAGSTER_HOME)/dagster.yaml ## materialize the study `demo` and show what came out
	@$(BIN)/python -m n2g_assets.demo

test: $(READY) ## run the tests
	@$(BIN)/python -m pytest

ui: $(READY) $(DAGSTER_HOME)/dagster.yaml ## open the Dagster UI on a local port (PORT=3000)
	@echo "Dagster UI: http://127.0.0.1:$(PORT)  (Ctrl-C stops it)"
	@$(BIN)/dagster dev --workspace workspace.yaml --host 127.0.0.1 --port $(PORT)

lint: $(READY) ## style, types and the Dagster project
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/dg check defs
	@$(BIN)/dagster definitions validate --workspace workspace.yaml

readme: $(READY) ## bring the generated parts of the README up to date
	@$(BIN)/python -m n2g_assets.readme

format: $(READY) ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY) ## measure: each script prints one ratio last
	@$(BIN)/python benchmarks/harvest.py
	@$(BIN)/python benchmarks/graphs.py

clean: ## remove the environment's mark; data in N2G_HOME stays
	@rm -f $(READY)

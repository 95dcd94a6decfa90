# One command each. Everything lives in .venv; nothing outside the repository is touched.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check bench install clean

PYTHON ?= python3
BIN := .venv/bin
# Python compiles what is imported when it is; compiling all that is installed takes most of a minute.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile --constraint constraints.txt
BENCHMARK := $(BIN)/python -m tests.benchmarks

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/installed ## split and train a small GPT in 4 stages, with pictures (under 3 minutes)
	@$(BIN)/python -m models.demo

test: export OMP_NUM_THREADS = 1
test: check ## everything that CI runs: check, then the tests and every example in the docs
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

check: .venv/installed-dev ## format, lint, types and the import floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Coverage of every architecture takes hours: here one in forty, and no record of so few.
bench: .venv/installed-dev ## the benchmarks; they write their records in docs/benchmarks/
	$(BENCHMARK).planning
	$(BENCHMARK).engine_overhead
	$(BENCHMARK).pipelining_gloo
	$(BENCHMARK).second_capture
	$(BENCHMARK).solver_graphs --record
	$(BENCHMARK).what_it_bought --record
	$(BENCHMARK).capture_ways --record
	$(BENCHMARK).capture_coverage --every 40

install: .venv/installed-dev ## make .venv with everything that developers need

clean: ## remove .venv and all caches
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: reinstall only when what is asked for has changed. The second includes the first.
.venv/installed: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing autopipe into .venv (a few minutes the first time)"
	@$(PIP) --editable .
	@touch $@

.venv/installed-dev: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing autopipe and its development tools into .venv (a few minutes the first time)"
	@$(PIP) --editable '.[dev,hf,report]'
	@touch .venv/installed $@

# A new interpreter means a new environment, so both stamps depend on it. A half-made environment is removed:
# the next try starts clean.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "autopipe needs Python 3.11 or newer, and there is no '$(PYTHON)' here."; \
	  echo "Try: install Python, or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "autopipe needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
	  echo "Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv --clear .venv || { rm -rf .venv; \
	  echo "'$(PYTHON)' cannot make a virtual environment."; \
	  echo "Try: install its venv module (on Debian and Ubuntu: apt install python3-venv)"; exit 1; }

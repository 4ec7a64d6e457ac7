# Everything is done inside a virtual environment of the project's own. To use another one, or
# another interpreter: make VENV=path PYTHON=python3.12 <target>. pip reads its PIP_* variables.

PYTHON ?= python3
VENV ?= .venv
SEED ?= 0
HOSTILE_FILES ?= 5000
CORE = tests/ops tests/ssm tests/dynamics tests/replay tests/world_model tests/behaviour
KILLS ?= 120
DISK_ERRORS ?= 120
SOAK_HOURS ?= 8

PY := $(VENV)/bin/python
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart install dev test test-core test-lab test-learning test-suites coverage faults lint types check clean \
	distclean

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

quickstart: install ## Install, then learn a small game in minutes on a CPU (SEED=0).
	$(VENV)/bin/drama train quick --env drama/Catch-v0 --seed $(SEED)

install: $(VENV)/.installed ## Install the package into .venv.

dev: $(VENV)/.installed-dev ## Install the package and the development tools into .venv.

test: dev ## Run the quick tests (PYTEST_ARGS="-m slow" for others).
	$(PY) -m pytest $(PYTEST_ARGS)

test-core: dev ## Run the tests of sequence models, replay, world model and behaviour: about a minute.
	$(PY) -m pytest $(CORE) $(PYTEST_ARGS)

test-lab: dev ## Run the tests of the experiment scripts in lab/.
	$(PY) -m pytest lab/tests $(PYTEST_ARGS)

test-learning: $(VENV)/.installed-learning ## Train `quick` on four tasks to a required score: about half an hour.
	$(PY) -m pytest -m learning tests/learning $(PYTEST_ARGS)

coverage: dev ## Run the quick tests and show which lines of src/ they do not reach.
	$(PY) -m pytest --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

test-suites: $(VENV)/.installed-suite ## Run suites as processes and on a real Ray, and kill some.
	$(PY) -m pytest -m slow tests/suite

faults: dev ## Break things on purpose, the long campaign (hours); ends with "faults survived N of N".
	DRAMA_HOSTILE_FILES=$(HOSTILE_FILES) DRAMA_KILLS=$(KILLS) DRAMA_DISK_ERRORS=$(DISK_ERRORS) \
		DRAMA_SOAK_HOURS=$(SOAK_HOURS) $(PY) -m pytest -p tests.faults.count -m faults tests

lint: dev ## Check style and formatting.
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: dev ## Check the types of src/.
	$(PY) -m mypy

check: lint types test ## All of the above checks.

clean: ## Remove caches and build outputs; runs/ and the environment stay.
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks lab -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## The same, and the virtual environment.
	rm -rf $(VENV)

# pip is the last thing `venv` puts in place, so it stands for an environment that is complete.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and \
		"drama needs Python 3.10 or newer, this is " + sys.version.split()[0] + \
		"; name another with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# The empty stamp files say what is installed, so that the next call does not install it again.
$(VENV)/.installed: pyproject.toml | $(VENV)/bin/pip
	$(PY) -m pip install --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/pip
	$(PY) -m pip install --editable '.[dev]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-learning: pyproject.toml $(VENV)/.installed-dev
	$(PY) -m pip install --editable '.[dev,minatar]'
	@touch $(VENV)/.installed $(VENV)/.installed-dev $@

$(VENV)/.installed-suite: pyproject.toml $(VENV)/.installed-dev
	$(PY) -m pip install --editable '.[dev,suite]'
	@touch $(VENV)/.installed $(VENV)/.installed-dev $@

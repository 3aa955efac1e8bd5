# The two commands a newcomer needs: `make demo` and `make test`. Each prepares .venv by itself.
# PYTHON chooses the interpreter (3.11 or newer); VENV another place for the environment.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PYTEST_ARGS ?=
# Most tests wait for something most of the time, and some compute: three at once keep two cores busy.
WORKERS ?= 3
WHEELED = $(VENV)-wheel

.PHONY: demo test coverage test-system test-machine system-ready test-install check bench bench-service share soak clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed
	$(BIN)/comfytunnel demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

# The same with the lines that were run counted, in the daemons' processes too; slower.
coverage: $(VENV)/.installed-dev
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -q -n $(WORKERS) --dist worksteal $(PYTEST_ARGS); status=$$?; \
	  $(BIN)/coverage combine -q && $(BIN)/coverage report | tail -n 1; exit $$status

# Against a systemd user manager, which `make test` does without. Leaves nothing behind in the repository, which may not be ours to write;
# what it needs is prepared by `make system-ready`, since there may be no network where the manager is.
test-system: system-ready
	PYTHONDONTWRITEBYTECODE=1 COMFYTUNNEL_TEST_INSTALLED=$(abspath $(WHEELED))/bin/comfytunnel \
	  $(BIN)/python -m pytest -n 2 --dist worksteal -p no:cacheprovider $(PYTEST_ARGS) tests/system

# What only root sees of it, on a machine that is thrown away afterwards.
test-machine: system-ready
	PYTHONDONTWRITEBYTECODE=1 COMFYTUNNEL_TEST_INSTALLED=$(abspath $(WHEELED))/bin/comfytunnel COMFYTUNNEL_TEST_MACHINE=throw-away \
	  $(BIN)/python -m pytest -p no:cacheprovider $(PYTEST_ARGS) tests/machine

system-ready: $(VENV)/.installed-dev $(WHEELED)/.installed

# An environment with nothing but the built wheel in it, as a person installs it.
$(WHEELED)/.installed: pyproject.toml $(VENV)/bin/python $(shell find daemon systemd launchd -name __pycache__ -prune -o -type f -print)
	rm -rf $(WHEELED)
	$(BIN)/python -m venv $(WHEELED)
	$(WHEELED)/bin/python -m pip wheel -q --disable-pip-version-check --no-deps -w $(WHEELED)/dist .
	$(WHEELED)/bin/python -m pip install -q --disable-pip-version-check $(WHEELED)/dist/*.whl
	touch $@

# Into clean environments with pip, pipx and uv tool: needs the package index.
test-install: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q $(PYTEST_ARGS) tests/install

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	$(BIN)/python -m bench

# The manual pages and the shells' completion, anew. Tests say when they are stale.
share: $(VENV)/.installed-dev
	$(BIN)/python -m tests.packaging.share

# The service under a user manager: how soon it answers, and what a restart costs.
bench-service: system-ready
	PYTHONDONTWRITEBYTECODE=1 COMFYTUNNEL_TEST_INSTALLED=$(abspath $(WHEELED))/bin/comfytunnel $(BIN)/python -m bench.service

# Faults in random order around a daemon that is in use. SOAK_SECONDS (600) and SOAK_SEED are taken from the environment.
soak: $(VENV)/.installed-dev
	$(BIN)/python -m tests.soak

clean:
	rm -rf $(VENV) $(WHEELED) .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "comfytunnel needs Python 3.11 or newer, and '$(PYTHON)' is not: try 'make PYTHON=python3.12 $(MAKECMDGOALS)'." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	touch $@ $(VENV)/.installed

# Needs python3 (3.11 or later, with venv) and a package index; everything else is made here.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test lint format bench install clean
.DEFAULT_GOAL := test

install: $(STAMP)

# Made again only when a dependency changes: the package itself is installed in place.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed; say which: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --build-constraint constraints.txt --editable . --group dev
	@touch $@

demo: $(STAMP)
	$(BIN)/otel-cost demo $(if $(ONCE),--once)

test: $(STAMP)
	$(BIN)/python -m pytest -m "not bench" $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Every script in tests/bench prints its own figures.
bench: $(STAMP)
	@set -e; for script in $$(grep -l '^if __name__' tests/bench/*.py); do echo "== $$script"; PYTHONPATH=. $(BIN)/python $$script; done

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

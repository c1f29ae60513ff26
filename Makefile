# Needs python3 (3.11 or later, with venv) and a package index; everything else is made here.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo integrations test lint format bench install clean
.DEFAULT_GOAL := test

install: $(STAMP)

# Made again only when a dependency changes: the package itself is installed in place.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed; say which: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --build-constraint constraints.txt --editable . --group dev
	@touch $@

# What the tests of otel_cost.guard meet; LiteLLM needs an older OpenAI client than the others and lives by itself.
integrations: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --group integrations
	test -x .venv-litellm/bin/litellm || { $(PYTHON) -m venv .venv-litellm && .venv-litellm/bin/python -m pip install --quiet --disable-pip-version-check --constraint tests/guard/litellm-constraints.txt 'litellm[proxy]'; }

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

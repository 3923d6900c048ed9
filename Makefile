# SPDX-License-Identifier: GPL-2.0-only
# make check: the default suite, judged against the reviewed expectations.
# make test:  lint, types, layering and all tests: `make unit`; `make whole`, the tests of whole
#             programs (each command and output in the docs, scripts, clusters); `make searches`,
#             the tests that explore for long (mutants, brute force beside the reduction).
# Both need Python >= 3.11 (with venv and pip) and nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2

.PHONY: check test lint types layers unit whole searches clean

check: $(VENV)/.installed
	$(BIN)/septum check --expect docs/verdicts.toml --jobs $(JOBS)
	$(BIN)/septum show docs/examples/reread-sptep.json

test: lint types layers unit whole searches

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.tested
	$(BIN)/mypy

layers: $(VENV)/.tested
	$(BIN)/lint-imports --no-cache

SEARCHES := tests/mutants tests/quality tests/scenarios/test_soundness.py \
	tests/explore/test_random.py tests/explore/test_literature.py tests/explore/test_bounded.py

WHOLE := tests/test_project_docs.py tests/test_scripts.py tests/scenarios/test_cluster.py \
	tests/browser

# test-compiled runs what compares the builds, once there is a compiled one.
unit: $(VENV)/.tested
	$(BIN)/pytest -n $(JOBS) $(SEARCHES:%=--ignore=%) $(WHOLE:%=--ignore=%) \
		--ignore=tests/test_compiled.py

whole: $(VENV)/.tested
	$(BIN)/pytest -n $(JOBS) $(WHOLE)

searches: $(VENV)/.tested
	$(BIN)/pytest -n $(JOBS) $(SEARCHES)

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV) || { echo 'septum: python3 -m venv failed; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	touch $@

$(VENV)/.installed: $(VENV)/.venv pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.tested: $(VENV)/.venv pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis

.PHONY: docs
docs: $(VENV)/.docs
	$(BIN)/sphinx-build -E -W --keep-going -q -b html docs build/docs

$(VENV)/.docs: $(VENV)/.venv pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@ $(VENV)/.installed

.PHONY: tutorial
tutorial: $(VENV)/.installed
	$(BIN)/python scripts/follow_tutorial.py

# The compiled build, to be used as PYTHONPATH=build/compiled septum ...
.PHONY: compiled
compiled: build/compiled/.built

build/compiled/.built: $(VENV)/.venv $(shell find src -name '*.py') hatch_build.py pyproject.toml
	rm -rf build/compiled
	SEPTUM_COMPILE=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/compiled .
	touch $@

# The tests of what is compiled, on the compiled build; and that it does as the pure one does.
.PHONY: test-compiled
test-compiled: $(VENV)/.tested compiled
	$(BIN)/pytest -n $(JOBS) tests/test_compiled.py
	PYTHONPATH=build/compiled $(BIN)/pytest -n $(JOBS) tests/machine tests/explore tests/tdx

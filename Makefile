# `make demo` and `make test` do all of their set-up themselves; `make help` lists the rest.
# PYTHON picks the interpreter (>= 3.11), VENV the folder of the environment; both may be given on the command line.
PYTHON ?= python3
VENV ?= .venv
# Those of test-bounds.
PYTHONS ?= 3.11 3.12 3.13 3.14
# The CPU build of torch, which has an index of its own; UV_TORCH_BACKEND= takes that of the package index. uv fails
# on an empty value.
UV_TORCH_BACKEND ?= cpu
ifneq ($(UV_TORCH_BACKEND),)
export UV_TORCH_BACKEND
else
unexport UV_TORCH_BACKEND
endif
BIN = $(abspath $(VENV))/bin

export MPLBACKEND = Agg
# No telemetry of any dependency, installed or not.
export MLFLOW_DISABLE_TELEMETRY = true
export DO_NOT_TRACK = true
export RAY_USAGE_STATS_ENABLED = 0
export HF_HUB_DISABLE_TELEMETRY = 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-bounds lint format docs visit-docs bench evidence dist clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1\t/' | expand -t 12

demo: $(VENV)/.demo  ## real flights: learn a target of few labels together with others, compare models, register one in MLflow
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tabmtl demo $(ARGS)

test: lint  ## lint, types, import order, and every test but the slow check_estimator runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not all_faces" $(ARGS)

test-all: lint docs  ## the same with all checks of every face of every model, those of the core without doors, and the site
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --hypothesis-profile all $(ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python .ci/without_doors.py

test-bounds: dist $(VENV)/.bounds  ## a smoke test of the wheel at the lower bounds, on each Python at hand; downloads torch for each
	set -e; for python in $(PYTHONS); do \
	    if ! $(BIN)/uv python find --quiet --no-python-downloads $$python >/dev/null 2>&1; then \
	        echo "Python $$python: not at hand, left out"; continue; fi; \
	    $(BIN)/uv venv --quiet --clear --no-project --no-python-downloads --python $$python build/bounds/$$python; \
	    $(BIN)/uv pip install --quiet --python build/bounds/$$python --resolution lowest-direct --only-binary :all: \
	        --requirements pyproject.toml; \
	    $(BIN)/uv pip install --quiet --python build/bounds/$$python --no-deps dist/*.whl; \
	    build/bounds/$$python/bin/python .ci/smoke.py; \
	    $(BIN)/uv pip install --quiet --python build/bounds/$$python --resolution lowest-direct --only-binary :all: \
	        --requirements pyproject.toml --extra nn; \
	    build/bounds/$$python/bin/python .ci/smoke.py; \
	done

lint: $(VENV)/.dev  ## ruff (rules and format), mypy, import-linter, the rules of .ci/house_rules.py, the limits of .ci/measures.py
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --num-workers 2
	$(BIN)/lint-imports --no-cache
	$(BIN)/python .ci/house_rules.py
	$(BIN)/python .ci/measures.py

format: $(VENV)/.dev  ## sort imports, apply safe fixes, format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.docs  ## the site, with its examples, in docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html $(ARGS)

visit-docs: docs  ## visit every page in headless Chromium (apt-get install chromium chromium-driver), screenshots in docs/_build
	$(BIN)/python .ci/visit_site.py docs/_build/html

bench: $(VENV)/.bench  ## training speed against plain references and other libraries, one thread; python -m benchmarks.speed has more
	OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 $(BIN)/python -m benchmarks.speed \
	    --only peer home members long embeddings plain shared one_row body step $(ARGS)

evidence: $(VENV)/.bench  ## tables of scores against other models, on the data sets of TABMTL_DATA: hours
	set -e; for name in scores 'scores --experts' boosting sessions targets; do $(BIN)/python -m benchmarks.$$name $(ARGS); done
	$(BIN)/python -m benchmarks.evidence --parts sharing $(ARGS)
	$(BIN)/python -m benchmarks.evidence --budget 72000 $(ARGS)

dist: $(VENV)/.dist  ## the source archive and the wheel of this checkout in dist/, checked for the package index
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*

clean:  ## remove the environment and whatever was built
	rm -rf $(VENV) build dist *.egg-info demo_output benchmark_output .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf mlflow.db mlruns sweep.db* docs/_build docs/_generated docs/api docs/examples
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: an environment is made once, and a group is installed again when pyproject.toml changes. Modules are compiled when
# they are first read: a minute is gained, as most of them never are.
$(VENV)/.pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "tabmtl needs Python >= 3.11; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	        "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.demo $(VENV)/.dev $(VENV)/.docs $(VENV)/.bench $(VENV)/.dist $(VENV)/.bounds: $(VENV)/.%: $(VENV)/.pip pyproject.toml
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile --editable '.[nn]' --group $*
	@touch $@

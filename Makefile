PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
LOWEST := .venv-lowest

# One thread per test process: the two of them share the cores.
test lint lowest docs notebooks release: export OMP_NUM_THREADS = 1

define require_python
	@command -v $(PYTHON) >/dev/null || { echo "No '$(PYTHON)' here. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "'$(PYTHON)' is $$($(PYTHON) --version 2>&1); Python 3.11 or newer is needed. Name one: make PYTHON=/path/to/python3.12"; exit 1; }
endef

.DEFAULT_GOAL := help
.PHONY: help demo test verify lint lowest docs notebooks release clean

help:
	@echo "make demo    a first look: inspect the bundled Diff-Mamba, ask it needle prompts, train and measure a lens,"
	@echo "             compare needle probability and signal-to-noise per block with plain Mamba"
	@echo "make test    import contract and tests, on the CPU"
	@echo "make verify  rebuild the analyses from their own data (hours)"
	@echo "make lint    ruff, mypy and the import contract"
	@echo "make lowest  the tour, commands and pages with the lowest versions that pyproject.toml promises, in .venv-lowest"
	@echo "             (several GB; Python 3.11 or 3.12)"
	@echo "make docs    the site, into site/: every block of code on its pages is run, and a broken link is an error"
	@echo "make notebooks  run docs/notebooks in fresh kernels; none may take a minute (their outputs: KEEP=--keep)"
	@echo "make release build source archive and wheel, check them, try the wheel in an empty environment (a few minutes)"
	@echo "make clean   remove .venv, .venv-lowest, caches and build output; runs/ stays"
	@echo
	@echo "Each sets up .venv by itself. PYTHON=... chooses the interpreter (3.11 or newer)."

demo: $(STAMP)
	$(PY) -m diffmamba_interp.inspect diffmamba_interp/models/demo_files/diff-mamba2
	$(PY) analyses/quickstart/run.py
	rm -rf runs/demo
	$(PY) -m diffmamba_interp.train_lens --out runs/demo/lens
	$(PY) -m diffmamba_interp.evaluate_needle --n 10 --out runs/demo/needle

test: $(STAMP)
	$(VENV)/bin/lint-imports --no-logo
	$(PY) -m pytest -n 2 --dist worksteal --durations=15

# An analysis takes part when it has a recipe of its own.
verify: $(STAMP)
	@set -e; \
	recipes=$$(ls analyses/*/recipe.toml 2>/dev/null || true); \
	if [ -z "$$recipes" ]; then echo "verify: no analysis has a recipe yet, so there is nothing to rebuild."; exit 0; fi; \
	echo "verify: will rebuild, one after the other:"; printf '  %s\n' $$recipes; \
	for recipe in $$recipes; do \
		run=$$(dirname $$recipe)/run.py; \
		names=$$(sed -n 's/^\[\([a-z]*\)\]$$/\1/p' $$recipe | grep -v '^builtin$$' || echo builtin); \
		for name in $$names; do \
			echo "verify: $$run --recipe $$name"; \
			$(PY) $$run --recipe $$name; \
		done; \
	done; \
	$(PY) analyses/findings/run.py

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

# Without the tests' type hook and warnings as errors, as a user has it. A version that was withdrawn is no lower bound.
lowest:
	$(require_python)
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(PYTHON) .ci/lowest_versions.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet -c $(LOWEST)/constraints.txt -e '.[app,logging]' \
		$$(grep -E '^pytest(-timeout)?==' constraints.txt) 2> $(LOWEST)/pip.txt || { cat $(LOWEST)/pip.txt; exit 1; }
	! grep -A 1 'yanked version' $(LOWEST)/pip.txt
	$(LOWEST)/bin/python -m pytest -o addopts=--import-mode=importlib -o filterwarnings= -m 'not browser' --durations=5 \
		tests/project/test_documents.py tests/project/test_lazy_names.py tests/models/test_checkpoints.py \
		tests/text tests/figures tests/cli tests/app

# The blocks run as a reader runs them, without pytest's type hook.
docs: $(VENV)/.docs
	$(PY) -m docs.generators.run_blocks
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build

$(VENV)/.docs: $(STAMP)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $(VENV)/.docs

notebooks: $(STAMP)
	$(PY) docs/generators/run_notebooks.py $(KEEP)

# The checks of an index of packages are twine's, which nothing else here needs.
release: $(STAMP)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt twine
	$(PY) .ci/release.py $(TOUR)

clean:
	rm -rf $(VENV) $(LOWEST) dist site .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	$(require_python)
	@echo "Setting up $(VENV); the first time takes a few minutes."
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[app,dev]'
	@touch $(STAMP)

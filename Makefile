# `make serve` and `make test` do all set-up themselves. See README.md.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
BIN := .venv/bin
STAND_IN = $$($(BIN)/python -c 'from workers_ai_emulator.models.stand_in import REQUIREMENT as r; print(r)')

.PHONY: serve test test-unit lint format bench clean

serve: .venv/.installed
	@$(BIN)/workers-ai-emulator serve

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

bench: .venv/.installed-dev
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .cache

# Building llama-cpp-python takes minutes: what is installed and compiled is shown as it comes.
.venv/.installed: pyproject.toml
	@mkdir -p .cache
	@$(PYTHON) -m venv .venv >&2
	@echo "Installing. The first time this compiles llama.cpp, which takes some minutes." >&2
	@$(BIN)/pip install --disable-pip-version-check --verbose --editable . 2>&1 \
		| tee .cache/install.log | sed -unE -e 's|^Collecting ([^ ]+).*|  \1|p' \
		-e 's|^ *(\[[0-9]+/[0-9]+\]) .*/([^/ ]+)$$|  \1 \2|p' -e '/^ *(ERROR|error): /p' >&2 \
		|| { echo "It failed; the whole story is in .cache/install.log" >&2; exit 1; }
	@$(BIN)/pip install --disable-pip-version-check --quiet --no-deps "$(STAND_IN)"
	@touch $@

.venv/.installed-dev: .venv/.installed
	@$(BIN)/pip install --disable-pip-version-check --quiet --editable '.[dev]'
	@touch $@

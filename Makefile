# Needs only make and Python 3.11 or newer. `make help` lists what there is to do.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := src tests examples benchmarks

# The first interpreter on the path that is new enough; PYTHON=... on the command line wins.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)

# Two test processes, one thread each: more threads than cores only wait for each other.
TEST_ARGS ?= -n 2 --dist loadfile
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench clean $(VENV)

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z.$$()A-Z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile \
		| sed 's/$$(VENV)/.venv  /'

$(VENV): $(STAMP)  ## build the environment in .venv

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "closegap needs Python 3.11 or newer; install it, or run make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "building $(VENV) with $$($(PYTHON) --version) (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: $(STAMP)  ## evaluate the embedded network and write closegap-demo.html
	@$(BIN)/closegap demo

test: $(STAMP)  ## run the tests
	@$(BIN)/python -m pytest $(TEST_ARGS)

check: $(STAMP)  ## lint, format, types, imports, budgets
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m pytest tests/test_budgets.py

format: $(STAMP)  ## rewrite the sources as check wants them
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

bench: $(STAMP)  ## short versions of the benchmarks (needs the data pack)
	@$(BIN)/python benchmarks/vnncomp.py --short
	@$(BIN)/python benchmarks/robust_accuracy.py --short

clean:  ## remove everything that was built
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache closegap-demo.html
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

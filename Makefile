# make quickstart   the whole job on synthetic sounds      make test        what every change must pass
# make install      what both need, into .venv             make test-slow   long tests, below an hour; CI runs both
# make lint         style, types, and import rules

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
BIN := .venv/bin
INSTALLED := .venv/.installed
ARGS ?=
# As the command itself sets them, for tests that start Ray without it (rlcap/process_settings.py says why).
export OMP_WAIT_POLICY := active
export GOMP_SPINCOUNT := 1000
export MALLOC_TRIM_THRESHOLD_ := 268435456
export MALLOC_MMAP_THRESHOLD_ := 33554432

.PHONY: quickstart install lint test test-slow

quickstart: $(INSTALLED)
	$(BIN)/rlcap quickstart $(ARGS)

install: $(INSTALLED)

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/unit --numprocesses auto --maxprocesses 4
	$(BIN)/pytest tests/e2e tests/ray --numprocesses 2 --dist loadfile --no-loadscope-reorder

# One after the other: some of them load the machine on purpose.
test-slow: $(INSTALLED)
	$(BIN)/pytest tests/slow

# A command of that name is not enough: a version manager's stand-in may exist and fail.
$(BIN)/python:
	@for python in python3.12 python3.11 python3; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then \
	    echo "creating .venv with $$($$python --version)"; exec $$python -m venv .venv; \
	  fi; \
	done; \
	echo "rlcap needs Python 3.11 or 3.12; none of python3.12, python3.11 and python3 is one here" >&2; exit 1

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,jobs,laion]"
	@touch $@

# One entry point: what a developer runs is what CI runs. `make` alone says what there is.
# Needs make and Python 3.11 or newer with its venv module; the rest is installed into
# .venv, at the versions that constraints.txt pins.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
# Which interpreter to build .venv from. Unset, the first that works is taken.
PYTHON ?=
PYTHONS := $(if $(PYTHON),$(PYTHON),python3.13 python3.12 python3.11 python3)
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SETUP := pyproject.toml constraints.txt

CREATED := $(VENV)/.created
EVERYTHING := $(VENV)/.installed

# Extra arguments: make test PYTEST="-k quorum", make bench-put BENCH="--seconds 10".
# Other ones: make sim SIM="--seed 17 --timeline", make mutants MUTANTS="M03 --seeds 9".
PYTEST ?=
BENCH ?=
SIM ?= --seeds 0..9999
MUTANTS ?=

.PHONY: help
help: ## Say what the targets are
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | \
	  while IFS='|' read -r name what; do printf '  make %-16s %s\n' $$name "$$what"; done

# ----------------------------------------------------------------------- set-up

$(CREATED):
	@if $(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' \
	    2>/dev/null; then mkdir -p $(VENV) && touch $@; exit 0; fi; \
	for python in $(PYTHONS); do \
	  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	    || continue; \
	  if ! $$python -c 'import venv, ensurepip' 2>/dev/null; then \
	    incomplete="$$incomplete $$python"; continue; fi; \
	  echo "Creating $(VENV) with $$($$python --version)"; \
	  $$python -m venv --clear $(VENV) && touch $@; exit; \
	done; \
	echo "No usable Python among: $(PYTHONS)." >&2; \
	echo "kvstore needs Python 3.11 or newer; name one with make PYTHON=..." >&2; \
	if [ -n "$$incomplete" ]; then \
	  echo "Without venv or ensurepip:$$incomplete. On Debian and Ubuntu they are in" \
	    "the package python3-venv (or python3.NN-venv)." >&2; fi; \
	exit 1

$(EVERYTHING): $(CREATED) $(SETUP)
	@echo "Installing kvstore with what development and benchmarks need"
	@$(PIP_INSTALL) -c constraints.txt -e '.[dev,bench]'
	@touch $@

.PHONY: venv
venv: $(EVERYTHING) ## Create .venv with kvstore and all tools (done by the others on demand)

# -------------------------------------------------------------------------- use

.PHONY: demo
demo: $(EVERYTHING) ## Start three nodes, write, kill the leader, show that nothing was lost
	@$(BIN)/python -m kvcluster.demo

.PHONY: bench-put
bench-put: $(EVERYTHING) ## Measure durable puts on three nodes (BENCH="--json ...")
	$(BIN)/kvstore bench put $(BENCH)

.PHONY: bench-scale
bench-scale: $(EVERYTHING) ## Measure restarts, a new member and memory with 1,000,000 keys
	$(BIN)/kvstore bench scale $(BENCH)

.PHONY: bench-failover
bench-failover: $(EVERYTHING) ## Measure how long the store is away after a leader's death
	$(BIN)/kvstore bench failover $(BENCH)

# ------------------------------------------------------------------------ check

.PHONY: test
test: $(EVERYTHING) ## Run every test: pure ones first, real processes last
	$(BIN)/python -m pytest --durations=15 $(PYTEST)

.PHONY: test-fast
test-fast: $(EVERYTHING) ## Run the tests that start no processes and are quick
	$(BIN)/python -m pytest -m 'not process and not slow' $(PYTEST)

.PHONY: sim
sim: $(EVERYTHING) ## Run 10,000 clusters under random faults (SIM="--seed 17")
	$(BIN)/kvstore sim $(SIM)

.PHONY: mutants
mutants: $(EVERYTHING) ## Put known bugs back, one by one, and see that each is found
	$(BIN)/kvstore sim mutants $(MUTANTS)

.PHONY: lint
lint: $(EVERYTHING) ## Check format, style and that generated files are up to date
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/python proto/generate.py --check
	$(BIN)/python docs/generate.py --check

.PHONY: generate
generate: $(EVERYTHING) ## Write the generated files again: kvstore/pb, docs/reference
	$(BIN)/python proto/generate.py
	$(BIN)/python docs/generate.py

.PHONY: format
format: $(EVERYTHING) ## Rewrite the sources in the house format
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

.PHONY: types
types: $(EVERYTHING) ## Check types, strictly
	$(BIN)/mypy

.PHONY: coverage
coverage: $(EVERYTHING) ## Measure branch coverage of the tests inside this process
	$(BIN)/coverage run -m pytest -m 'not process' $(PYTEST)
	$(BIN)/coverage report --skip-covered --show-missing

# ------------------------------------------------------------------------- keep

# Resolved in an empty environment, so that nothing installed by hand gets in.
.PHONY: constraints
constraints: $(CREATED) ## Pin again, to the newest versions that pyproject.toml allows
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	$(BIN)/python -m venv "$$scratch/venv" && \
	"$$scratch/venv/bin/python" -m pip install --quiet '.[dev,bench]' && \
	sed -n '/^#/p' constraints.txt > "$$scratch/constraints.txt" && \
	"$$scratch/venv/bin/python" -m pip list --format=freeze --exclude kvstore \
	  --exclude pip >> "$$scratch/constraints.txt" && \
	cp "$$scratch/constraints.txt" constraints.txt
	@echo "constraints.txt is new: run make test, then commit it"

.PHONY: clean
clean: ## Remove .venv, caches and build output
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache \
	  .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

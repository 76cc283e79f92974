# Every target sets up what it needs: a .venv from locked versions, kept until a lock changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: venv demo check test machine-test coverage chaos hostile lint types bench wheel lock clean

venv: $(READY)

$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Puter needs Python 3.11 or newer; say which with: make PYTHON=python3.12"; exit 2; }
	@echo "setting up $(VENV) …"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: venv
	@$(BIN)/puter demo

# What every commit passes: under a minute.
check: lint types
	@$(BIN)/pytest -q -n 2 tests/unit

test: lint types
	@$(BIN)/pytest -n 4 --dist worksteal

# User data on machines that really boot (root, Linux). The disk they start from is built once, and kept.
machine-test: venv
	@$(BIN)/python -m tests.machine.root
	@PUTER_MACHINE=1 $(BIN)/pytest -n 2 --dist worksteal tests/machine

# Every test in one process, and the lines that none of them ran; the report is in .coverage-html.
coverage: venv
	@$(BIN)/pytest -q --cov=puter_client --cov=puter_worker --cov-report=term:skip-covered --cov-report=html:.coverage-html

# The long form: 1,000 keys, 4 workers killed in turn, a Redis killed, an EC2 that loses answers. Seeds: PUTER_CHAOS_SEEDS="1 2".
chaos: venv
	@PUTER_CHAOS=long $(BIN)/pytest -s tests/chaos

# The attacks of a hostile user, the whole of them; `make test` does a part. Seed: PUTER_HOSTILE_SEED=1.
hostile: venv
	@PUTER_HOSTILE=long $(BIN)/pytest -s tests/hostile

lint: venv
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache

types: venv
	@$(BIN)/mypy

bench: venv
	@$(BIN)/python -m benchmarks

# The one wheel of this version, for an installation without the project's folder (README.md has the commands).
wheel: venv
	@rm -f dist/*.whl
	@$(BIN)/python -m hatchling build -t wheel

# Renews the locked versions (needs uv; no address of an index is written down). What is developed with is locked first,
# and the versions of the others are those: nothing is deployed that was not tested.
COMPILE := uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 pyproject.toml
lock:
	$(COMPILE) --extra dev -o requirements/dev.txt
	for role in client worker local demo; do \
	    cp requirements/dev.txt requirements/$$role.txt && \
	    $(COMPILE) $$([ $$role = client ] || echo "--extra $$role") -o requirements/$$role.txt || exit 1; \
	done

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .coverage .coverage-html

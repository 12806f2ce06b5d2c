# Every target does its own set-up: a virtual environment in .venv, pinned by constraints.txt.
# Needs Python 3.11 or newer; choose another one with `make PYTHON=python3.13 …`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

PACKAGES := llm_config_sdk llm_config_resilience llm_config_mock_server
FUZZ_SCALE ?= 25

RUN_READY := $(VENV)/.ready-run
TEST_READY := $(VENV)/.ready-test
BENCH_READY := $(VENV)/.ready-bench
PEERS_READY := $(VENV)/.ready-peers
DEV_READY := $(VENV)/.ready-dev
GUIDED_READY := $(VENV)/.ready-guided
MUTATION_READY := $(VENV)/.ready-mutation

.PHONY: help demo test simulate fuzz guided faults soak mutants coverage lint format bench performance peers docs wheel release-check hooks clean

help:  ## Show what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(RUN_READY)  ## Set up, and run the main job end to end
	@$(BIN)/llm-config-sdk demo

test: $(TEST_READY)  ## Set up, and run the tests
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

fuzz: $(TEST_READY)  ## Set up, and try FUZZ_SCALE=25 times as many examples as the tests do
	@FUZZ_SCALE=$(FUZZ_SCALE) $(BIN)/python -m pytest tests/fuzz --timeout=3600 $(PYTEST_ARGS)

guided: $(GUIDED_READY)  ## Set up, and send responses that are led on by the code they reach (GUIDED=600 seconds)
	@PYTHONPATH=tests $(BIN)/python -m fuzz.guided $(or $(GUIDED),600)

coverage: $(TEST_READY)  ## Set up, run the tests, and tell what of the packages they ran, by lines and branches
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -n 2 $(PYTEST_ARGS)
	@$(BIN)/coverage combine --quiet
	@for package in $(PACKAGES); do \
	  printf '%-26s' $$package; $(BIN)/coverage report --include="*/$$package/*" --format=total; done
	@$(BIN)/coverage report --skip-covered --show-missing --fail-under=95

simulate: $(TEST_READY)  ## Set up, and try more seeds than the tests do (SEEDS=100000 FIRST=0: how many, and from where)
	@$(BIN)/python -m pytest tests/simulation -k "whatever or same_trace" --seeds $(or $(SEEDS),10000) --first-seed $(or $(FIRST),0)

faults: $(TEST_READY)  ## Set up, and break the wire in every way under every operation of the client
	@FAULT_MATRIX=whole $(BIN)/python -m pytest -q -n 4 tests/integration/test_fault_matrix.py

mutants: $(MUTATION_READY)  ## Set up, break engine, breaker, retry and decoding, and see the tests notice (MUTANTS=20 SEED=0 MODULES=…)
	@$(BIN)/python tests/mutation --mutants $(or $(MUTANTS),20) --seed $(or $(SEED),0) $(MODULES)

soak: $(TEST_READY)  ## Set up, and see that memory and descriptors stay flat under load and faults (SOAK=600 seconds)
	@PYTHONPATH=tests $(BIN)/python -m integration.soak $(SOAK)

lint: $(DEV_READY)  ## Set up, and check style, types and the floors between the packages
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/pyright
	@$(BIN)/lint-imports
	@$(BIN)/zizmor --offline --quiet .github

format: $(DEV_READY)  ## Set up, and format the code
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

bench: $(BENCH_READY)  ## Set up, and measure this project beside what people use instead (BENCH=client: one of them)
	@$(BIN)/python tests/benchmarks $(BENCH)

performance: $(BENCH_READY)  ## Measure everything, and write docs/performance.md of it (about 12 minutes)
	@$(BIN)/python tests/benchmarks --json docs/performance.json
	@$(BIN)/python docs/tools/performance.py

peers: $(PEERS_READY)  ## Set up, and break the wire under other SDKs too; write the table into docs/explanation/comparison.md
	@$(BIN)/python docs/tools/peers.py

docs: $(DEV_READY)  ## Set up, and build the documentation's site into site/
	@$(BIN)/python docs/tools/build.py

wheel: $(DEV_READY)  ## Set up, and build the wheel and the source distribution
	@$(BIN)/python -m build --quiet

release-check: $(DEV_READY)  ## Set up, and check what a release has to hold (PARTS=…, PYTHONS=…, EXTRAS=…)
	@$(BIN)/python tests/release/check.py $(PARTS) \
	  $(if $(PYTHONS),--pythons $(PYTHONS)) $(if $(EXTRAS),--extras $(EXTRAS))

hooks: $(DEV_READY)  ## Set up, and have git run the linters before a commit, and the tests before a push
	@$(BIN)/pre-commit install

clean:  ## Remove what the other targets made
	rm -rf $(VENV) build dist site .cache .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "llm-config-sdk needs Python 3.11 or newer: make PYTHON=python3.11 …" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade --constraint constraints.txt pip
	@touch $@

$(RUN_READY): $(VENV)/.made pyproject.toml constraints.txt
	@$(PIP) install --constraint constraints.txt --editable '.[cli,server]'
	@touch $@

$(TEST_READY): $(RUN_READY) pyproject.toml constraints.txt
	@$(PIP) install --constraint constraints.txt --editable '.[all]' --group test
	@touch $@

$(BENCH_READY): $(TEST_READY) pyproject.toml constraints.txt
	@$(PIP) install --constraint constraints.txt --group bench
	@touch $@

$(PEERS_READY): $(RUN_READY) pyproject.toml constraints.txt
	@$(PIP) install --constraint constraints.txt --group peers
	@touch $@

$(DEV_READY): $(BENCH_READY) pyproject.toml constraints.txt
	@$(PIP) install --constraint constraints.txt --group dev
	@touch $@

$(GUIDED_READY): $(TEST_READY) pyproject.toml constraints.txt
	@$(PIP) install --constraint constraints.txt --group guided
	@touch $@

$(MUTATION_READY): $(TEST_READY) pyproject.toml constraints.txt
	@$(PIP) install --constraint constraints.txt --group mutation
	@touch $@

# Every entry point of the project; `make help` lists them. CI runs `make test` and nothing else.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
SHELL_SCRIPTS = $(shell grep -rlE '^\#!.*\b(ba)?sh$$' .ci tools exporter packaging 2>/dev/null)
PYTEST := $(BIN)/python -m pytest
# One process for each core; more than eight would spend their time on collecting.
WORKERS := -n logical --maxprocesses=8
heading = @printf '\n== %s\n' "$(1)"

# Without an NVIDIA card: a recorded trace through the same daemon, its ledger in .build/demo. With
# one, the ledger is in the checkout too, so that nobody needs root to try it; JOULEBOOK_LEDGER_PATH
# in the environment wins.
ifeq ($(wildcard /proc/driver/nvidia/gpus/*),)
RUN_FLAGS := --demo
else
run: export JOULEBOOK_LEDGER_PATH ?= $(CURDIR)/.build/run/ledger.db
endif

help: ## list these targets
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 21

run: ## run the daemon and a lab server; without an NVIDIA card, on a recorded trace (ARGS="--config ...")
	@tools/venv product
	@mkdir -p .build/demo .build/run
	@exec $(if $(ARGS),$(BIN)/joulebook run,tools/run) $(RUN_FLAGS) $(ARGS)

test: bootstrap lint generated site promtool unit real ## all that CI runs; installs what it needs (Debian, root)

bootstrap:
	$(call heading,packages and virtual environment)
	@tools/bootstrap
	@tools/venv dev

dev: ## make or update .venv with the tools of the tests
	@tools/venv dev

lint: dev ## ruff, format, mypy --strict, import contracts, shellcheck
	$(call heading,ruff)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	$(call heading,mypy)
	@$(BIN)/mypy
	@$(BIN)/mypy tools/*.py
	$(call heading,import contracts)
	@PYTHONPATH=exporter $(BIN)/lint-imports
	$(call heading,shellcheck)
	@if command -v shellcheck >/dev/null; then shellcheck $(SHELL_SCRIPTS); \
	else echo "no shellcheck here: skipped (make test installs it)"; fi

format: dev ## rewrite the sources as ruff would have them
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

generated: dev
	$(call heading,generated files)
	@$(BIN)/python tools/generate.py --check

site: dev ## build the documentation as a site in .build/site; a dead link is an error
	$(call heading,documentation)
	@$(BIN)/python -m sphinx -W --keep-going -n -q -d .build/doctrees docs .build/site

promtool:
	$(call heading,promtool)
	@tools/promcheck

unit: dev ## unit and property tests: no root, no network, no GPU (ARGS="-k name")
	$(call heading,unit tests)
	@$(PYTEST) tests/unit $(or $(ARGS),$(WORKERS) --dist worksteal --cov=joulebook --cov-report= --cov-fail-under=90)

integration: dev ## the daemon's parts on real programs (ARGS="-k name")
	$(call heading,integration tests)
	@$(PYTEST) tests/integration $(ARGS)

e2e: dev ## the whole daemon on real programs (ARGS="-k name")
	$(call heading,end-to-end tests)
	@$(PYTEST) tests/e2e $(ARGS)

# One pytest for both, so that programs started once per session serve all of them. A file's tests
# stay together: they share clusters, images and databases that take long to start.
real: dev
	$(call heading,integration and end-to-end tests)
	@$(PYTEST) $(wildcard tests/integration tests/e2e) $(WORKERS) --dist loadfile --durations=10

# At 50 times the examples, laws of 2,000 scenarios try 100,000. All but the pure core runs ten
# times: only chance shows what goes wrong between threads or processes.
SCALE := 50
ROUNDS := 10

nightly: bootstrap ## what takes hours, and what needs other registries (SCALE=50 ROUNDS=10)
	$(call heading,property tests with $(SCALE) times the examples)
	@JOULEBOOK_TEST_SCALE=$(SCALE) $(PYTEST) tests/unit --timeout=14400
	$(call heading,tests that are marked nightly)
	@$(PYTEST) -m nightly tests
	@for round in $$(seq $(ROUNDS)); do \
		printf '\n== threads and processes: round %s of $(ROUNDS)\n' $$round; \
		$(PYTEST) tests --ignore=tests/unit/core --ignore=tests/unit/oracle; \
	done

docs: dev ## write the generated pages, the manual page, dashboards and rules anew
	@$(BIN)/python tools/generate.py

pictures: dev ## draw dashboards and the lab server's pages into docs/images (needs npm, Chromium, and what the tests need)
	@mkdir -p .build/render
	@cp dashboards/render/{package.json,package-lock.json,app.jsx,build.mjs} .build/render
	@cd .build/render && npm ci --ignore-scripts --no-audit --no-fund && node build.mjs
	@PYTHONPATH=exporter:. $(BIN)/python -m tests.lab.pictures $(ARGS)
	@$(if $(ARGS),,PYTHONPATH=exporter:. $(BIN)/python -m tests.lab.lab_pages)

bench: dev ## benchmarks, with peers beside them
	@$(BIN)/python -m benchmarks $(ARGS)

gpu: dev ## what only a real NVIDIA GPU can show (ARGS="--load COMMAND --trace FILE.jsonl.gz")
	@$(BIN)/python -m benchmarks.gpu $(ARGS)

deb: dev ## the Debian package for the release this runs on, in .build/packages
	@packaging/deb

wheelhouse: dev ## wheels of joulebook and all that it needs, in .build/wheelhouse, for a place without network
	@packaging/wheelhouse $(ARGS)

image: ## the container image, with docker, podman or buildah (ARGS="TAG")
	@packaging/image $(ARGS)

lock: ## write the lock files from pyproject.toml (ARGS="--upgrade" moves all versions)
	@tools/lock $(ARGS)

clean: ## remove all that make made, .venv included
	@rm -rf .venv .build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

.PHONY: help run test gpu bootstrap dev lint format generated promtool unit integration e2e real nightly docs \
	pictures bench deb image lock clean site wheelhouse

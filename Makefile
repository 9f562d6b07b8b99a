# Everything here needs only Python 3.11 or newer and pip; each target installs what it needs, once.

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)
VENV := .venv
OPENAI3 := .venv-openai3
ALONE := llamaindex haystack
RUN := $(VENV)/bin/python
PIP := -m pip --disable-pip-version-check install --quiet --editable
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test live record lint test-openai3 test-alone recipes faults soak params readme pictures bench clean

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /:/' | while IFS=: read -r name text; do \
		printf '  make %-14s %s\n' "$$name" "$$text"; done

demo: $(VENV)/.installed ## A tour of what works, against a real vLLM (VLLM_BASE_URL, or started here)
	@$(VENV)/bin/vllm-adapters demo

test: $(VENV)/.installed ## The recorded tests, offline; ARGS="-k tools -x" goes to pytest
	$(RUN) -m pytest $(ARGS)

live: $(VENV)/.installed ## Those that talk to a server, against a real vLLM; ARGS="-m another_version": against older ones
	$(RUN) -m pytest --live -m "(vllm or live) and not another_version and not fresh_environment" $(ARGS)

record: $(VENV)/.installed ## The same, and write the cassettes anew
	$(RUN) -m pytest --live --record $(ARGS)

lint: $(VENV)/.installed ## Format, lint and types
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -m mypy recipes

test-openai3: $(OPENAI3)/.installed ## The recorded tests on openai 3, where LangChain alone ends up
	$(OPENAI3)/bin/python -m pytest $(ARGS)

test-alone: $(ALONE:%=test-alone-%) ## The recorded tests with LlamaIndex alone, and with Haystack alone on openai 3

test-alone-%: .venv-%/.installed
	.venv-$*/bin/python -m pytest tests/$* tests/faults/test_$**.py tests/faults/test_matrix.py tests/demo tests/recipes tests/test_*.py $(ARGS)

recipes: $(VENV)/.installed ## Each recipe alone in a fresh environment, against a real vLLM
	$(RUN) -m pytest --live -q -m fresh_environment tests/recipes $(ARGS)

faults: $(VENV)/.installed ## What every path makes of every fault, as a table; ARGS="LangChain 500" for a part of it
	@PYTHONPATH=tests/contracts $(RUN) -m fault_matrix $(ARGS)

soak: $(VENV)/.installed ## An hour's worth of mixed calls over a line that breaks at random: what goes wrong, what leaks
	@PYTHONPATH=benchmarks $(RUN) -m soak $(ARGS)

params: $(VENV)/.installed ## Learn a vLLM release's parameters: SPEC="address or OpenAPI files" [ARGS=...]
	@test -n "$(SPEC)" || { echo 'make params SPEC=http://localhost:8000   (or OpenAPI files, and ARGS="--version 0.33.0")' >&2; exit 2; }
	$(RUN) scripts/make_availability.py $(SPEC) $(ARGS)

readme: $(VENV)/.installed ## Make the README's tables anew
	$(RUN) scripts/make_readme.py

pictures: $(VENV)/.installed ## Take the README's terminal pictures anew, of servers started here
	$(RUN) scripts/make_pictures.py

bench: $(VENV)/.installed ## Side by side with the frameworks' stock classes
	$(RUN) benchmarks/run.py $(ARGS)

clean: ## Remove the virtual environments
	rm -rf $(VENV) $(OPENAI3) $(ALONE:%=.venv-%)

$(VENV)/.installed: pyproject.toml
	$(call fresh,$(VENV))
	@echo "Installing the package and its tools into $(VENV) (a few minutes, once) ..."
	@$(VENV)/bin/python $(PIP) '.[all,dev]'
	@touch $@

$(OPENAI3)/.installed: pyproject.toml
	$(call fresh,$(OPENAI3))
	@echo "Installing the package on openai 3 into $(OPENAI3) (a few minutes, once) ..."
	@$(OPENAI3)/bin/python $(PIP) '.[langchain,dev]' 'openai>=3'
	@touch $@

.venv-%/.installed: pyproject.toml
	$(call fresh,.venv-$*)
	@echo "Installing the package with $* alone into .venv-$* (a few minutes, once) ..."
	@.venv-$*/bin/python $(PIP) '.[$*,dev-tools]' $(if $(filter haystack,$*),'openai>=3')
	@touch $@

.PRECIOUS: .venv-%/.installed

define fresh
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer with the venv module found (on Debian and Ubuntu: apt install python3-venv); or say make PYTHON=/path/to/python" >&2; exit 1; }
	@$(1)/bin/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(1)
endef

# Everything here needs only Python 3.11 or newer and pip; each target installs what it needs, once.

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)
VENV := .venv
OPENAI3 := .venv-openai3
ALONE := llamaindex haystack
UPSTREAM := .venv-upstream
CLIENTS := .venv-clients
BENCH := .venv-bench
GATEWAYS := .venv-gateways
OBSERVE := .venv-observe
RAY := .venv-ray
DOCS := .venv-docs
# What can differ with openai 3, and with one framework alone; the rest is the same code on the same libraries.
ON_OPENAI3 := tests/client tests/transport tests/response tests/langchain tests/contracts
ON_ALONE := tests/demo
# Haystack alone is on openai 3. LlamaIndex is on openai 2, as beside the others: what might need another framework.
ON_ALONE_haystack := tests/haystack "tests/contracts/test_fault_matrix.py::test_every_fault_ends_in_the_right_answer_or_error[Haystack]"
ON_ALONE_llamaindex := $(patsubst %,tests/llamaindex/test_%.py,agents chat embedding rag rerank streaming structured)
STATIC := tests/package tests/testing/test_recorded.py tests/client/test_typing.py tests/llamaindex/test_typing.py
RUN := $(VENV)/bin/python
# Modules are compiled when they are imported: most of them never are.
PIP := -m pip --disable-pip-version-check install --quiet --no-compile --editable
# Live tests that need neither a second vLLM nor an environment of their own.
HERE := not another_version and not fresh_environment
SITE := scripts/site/mkdocs.yml
MKDOCS = NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs
ARGS ?=
BULK := $(if $(findstring --ray,$(ARGS)),$(RAY),$(if $(findstring --live,$(ARGS)),$(GATEWAYS),$(VENV)))
# Two processes per core: many tests wait for a time limit or for another process.
JOBS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))

.DEFAULT_GOAL := help
.PHONY: help environments local-vllm demo test live smoke versions record lint test-openai3 test-alone clients upstream gateways \
	recipes faults observe soak bulk load params readme pictures package docs docs-serve docs-shots bench bench-live trace \
	coverage clean

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /:/' | while IFS=: read -r name text; do \
		printf '  make %-14s %s\n' "$$name" "$$text"; done

environments: $(VENV)/.installed $(OPENAI3)/.installed $(ALONE:%=.venv-%/.installed) $(DOCS)/.installed local-vllm ## Install all that .ci/run needs

local-vllm: $(VENV)/.installed
	@$(VENV)/bin/vllm-adapters serve minilm --install

demo: $(VENV)/.installed ## Show what works, against a real vLLM (VLLM_BASE_URL, or started here)
	@$(VENV)/bin/vllm-adapters demo

test: $(VENV)/.installed ## Run the tests offline, with recorded servers; ARGS="-k tools -x" goes to pytest
	$(RUN) -m pytest -n $(JOBS) -q $(STATIC:%=--ignore=%) $(ARGS)

smoke: $(VENV)/.installed ## Run a few server tests of each framework against a real vLLM
	$(RUN) -m pytest --live -q -m smoke $(ARGS)

live: $(VENV)/.installed ## Run all server tests against a real vLLM; VLLM_VERSION=0.14.1: of another version
	$(RUN) -m pytest --live $(if $(VLLM_VERSION),--vllm-version $(VLLM_VERSION) -m "vllm and $(HERE)",-m "(vllm or live) and $(HERE)") \
		$(ARGS)

versions: $(VENV)/.installed ## Record what each version of vLLM can do, and write the table; ARGS="-k 0.14.1" for one
	$(RUN) -m pytest --live --record -q tests/versions $(ARGS)
	$(RUN) scripts/make_readme.py

record: $(VENV)/.installed ## Run them and record the cassettes anew
	$(RUN) -m pytest --live --record $(ARGS)

lint: $(VENV)/.installed ## Check format, lint, types, spelling, prose, layers, exported names and cassettes
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -m mypy recipes
	$(RUN) -m codespell_lib
	$(RUN) scripts/check_prose.py
	$(RUN) -m pytest -q $(STATIC)

test-openai3: $(OPENAI3)/.installed ## Run the tests that can differ on openai 3, which LangChain alone installs
	$(OPENAI3)/bin/python -m pytest -n $(JOBS) -q $(ON_OPENAI3) $(ARGS)

test-alone: $(ALONE:%=test-alone-%) ## Run the tests of LlamaIndex alone, and of Haystack alone on openai 3

test-alone-%: .venv-%/.installed
	.venv-$*/bin/python -m pytest -n $(JOBS) -q $(ON_ALONE_$*) $(ON_ALONE) $(ARGS)

clients: $(CLIENTS)/.installed ## Run other people's libraries on our clients: instructor, Pydantic AI, Logfire, ...
	$(CLIENTS)/bin/python -m pytest -q -W ignore tests/clients $(ARGS)

gateways: $(GATEWAYS)/.installed ## Run calls and faults through vllm-router, LiteLLM's proxy and nginx (apt install nginx)
	@PYTHONPATH=scripts $(GATEWAYS)/bin/python -m gateways $(ARGS)

upstream: $(UPSTREAM)/.installed ## Run the own tests of langchain-openai, vllm-haystack and openai with our classes
	@$(UPSTREAM)/bin/python scripts/upstream/run.py $(ARGS)

recipes: $(VENV)/.installed ## Run each recipe alone in a fresh environment, against a real vLLM
	$(RUN) -m pytest --live -q -m fresh_environment tests/recipes $(ARGS)

faults: $(VENV)/.installed ## Run every path against every fault, and print the table; ARGS="LangChain 500" for a part of it
	@PYTHONPATH=tests/contracts $(RUN) -m fault_matrix $(ARGS)

observe: $(OBSERVE)/.installed ## Run every class under every instrumentation, and print the matrix; ARGS="--save logfire"
	@PYTHONPATH=tests/contracts $(OBSERVE)/bin/python -m observe_matrix $(ARGS)

soak: $(VENV)/.installed ## Run mixed calls over a connection that breaks at random: what fails, what leaks
	@PYTHONPATH=benchmarks $(RUN) -m soak $(ARGS)

bulk: $(BULK)/.installed ## Kill a bulk job of 100,000 prompts three times, resume it, count its results; ARGS=--live, ARGS=--ray
	@PYTHONPATH=benchmarks:scripts $(BULK)/bin/python -m bulk $(ARGS)

load: $(GATEWAYS)/.installed ## Stream through vllm-router while a replica is killed; ARGS="--streams 100 --seconds 60 --kills 1"
	@PYTHONPATH=benchmarks:scripts $(GATEWAYS)/bin/python -m load $(ARGS)

params: $(VENV)/.installed ## Add a vLLM release's parameters: SPEC="address or OpenAPI files" [ARGS=...]
	@test -n "$(SPEC)" || { echo 'make params SPEC=http://localhost:8000   (or OpenAPI files, and ARGS="--version 0.33.0")' >&2; exit 2; }
	$(RUN) scripts/make_availability.py $(SPEC) $(ARGS)

readme: $(VENV)/.installed ## Generate the tables of README and docs
	$(RUN) scripts/make_readme.py

pictures: $(VENV)/.installed ## Take the pictures of the docs anew, of servers started here
	$(RUN) scripts/make_pictures.py

package: $(VENV)/.installed ## Build the distributions in dist, and check their page on a package index
	@rm -rf dist
	$(RUN) -m build --quiet .
	$(RUN) -m twine check --strict dist/*

docs: $(DOCS)/.installed ## Build the documentation site in build/site, and check it
	@$(MKDOCS) build --quiet --config-file $(SITE)
	$(DOCS)/bin/python -m pytest -q tests/site $(ARGS)

docs-shots: docs $(VENV)/.installed ## Take screenshots of the site in Chromium, and check them in width and errors
	$(RUN) scripts/site/shots.py

docs-serve: $(DOCS)/.installed ## Serve the documentation site, and build it anew after each change
	@$(MKDOCS) serve --config-file $(SITE) --watch adapters --watch recipes --watch scripts/site $(ARGS)

bench: $(BENCH)/.installed $(OPENAI3)/.installed ## Compare with the frameworks' stock classes, on both majors of openai
	@code=0; for env in $(BENCH) $(OPENAI3); do $$env/bin/python benchmarks/run.py $(ARGS) || code=1; done; exit $$code

bench-live: $(BENCH)/.installed ## Compare the throughput of 64 streams at once with aiohttp's, on a local vLLM
	$(BENCH)/bin/python benchmarks/live.py $(ARGS)

trace: $(VENV)/.installed ## Count our calls from a framework to httpx, and from the socket to a chunk
	$(RUN) scripts/trace_calls.py $(ARGS)

coverage: $(VENV)/.installed ## Branch coverage of the package by the recorded tests
	$(RUN) -m pytest -n $(JOBS) -q --cov=vllm_adapters --cov-branch --cov-report=term:skip-covered $(ARGS)

clean: ## Remove the virtual environments
	rm -rf $(VENV) $(OPENAI3) $(ALONE:%=.venv-%) $(UPSTREAM) $(CLIENTS) $(GATEWAYS) $(OBSERVE) $(RAY) $(BENCH) $(DOCS) build/site

$(VENV)/.installed: pyproject.toml
	$(call install,$(VENV),the package and its tools,'.[all$(comma)dev$(comma)dev-recipes]')

$(OPENAI3)/.installed: pyproject.toml
	$(call install,$(OPENAI3),the package on openai 3,'.[langchain$(comma)dev]' 'openai>=3')

$(UPSTREAM)/.installed: pyproject.toml scripts/upstream/requirements.txt
	$(call install,$(UPSTREAM),the packages whose tests run,'.[langchain$(comma)haystack$(comma)dev-tools]' -r $(lastword $^))

$(CLIENTS)/.installed: pyproject.toml tests/clients/requirements.txt
	$(call install,$(CLIENTS),other people's libraries,'.[langchain$(comma)dev-tools]' -r $(lastword $^))

$(GATEWAYS)/.installed: pyproject.toml scripts/gateways/requirements.txt
	$(call install,$(GATEWAYS),the gateways,'.[langchain$(comma)llamaindex$(comma)haystack$(comma)metrics$(comma)testing]' -r $(lastword $^))

$(DOCS)/.installed: pyproject.toml
	$(call install,$(DOCS),the tools of the documentation site,'.[docs]')

$(BENCH)/.installed: pyproject.toml benchmarks/requirements.txt
	$(call install,$(BENCH),what the benchmarks compare,'.[langchain$(comma)llamaindex$(comma)haystack]' -r $(lastword $^))

$(OBSERVE)/.installed: pyproject.toml tests/contracts/observe_matrix/requirements.txt
	$(call install,$(OBSERVE),instrumentations,'.[all$(comma)testing]' -r $(lastword $^))

$(RAY)/.installed: pyproject.toml benchmarks/bulk/ray-requirements.txt
	$(call install,$(RAY),Ray Data,'.[testing]' -r $(lastword $^))

.venv-%/.installed: pyproject.toml
	$(call install,.venv-$*,the package with $* alone,'.[$*$(comma)dev-tools]' $(if $(filter haystack,$*),'openai>=3'))

.PRECIOUS: .venv-%/.installed

comma := ,

define install # a virtual environment: its folder, what it is for, and what pip installs
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer with the venv module found (on Debian and Ubuntu: apt install python3-venv); or say make PYTHON=/path/to/python" >&2; exit 1; }
	@$(1)/bin/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(1)
	@echo "Installing $(2) into $(1) (a few minutes, once) ..."
	@$(1)/bin/python $(PIP) $(3)
	@touch $(1)/.installed
endef

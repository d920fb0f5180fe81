# Everything runs in .venv, which is made on first use from a lock, with every file's hash checked: the demo from the
# worker's lock, which has no test tools, everything else from requirements.lock.
# Torch is a step of its own, because its builds differ between indexes:
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu    without CUDA
#   make test TORCH=torch==2.11.0                                 another version
PYTHON ?= python3
TORCH_INDEX ?=
TORCH ?= --requirement requirements-torch.txt
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := python -m pip install --quiet --disable-pip-version-check
FROM_LOCK := --no-deps --require-hashes --requirement
FROM_TREE := --no-deps --no-build-isolation --editable
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help install client demo test test-browser pictures faults serve lint audit check-api-image images format lock clean
.DEFAULT_GOAL := help

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed ## Make the virtual environment

# uv installs, since it is several times faster. pip does where uv cannot be had, or cannot reach the packages: uv does
# not read pip's configuration file, only these variables. What pyproject.toml says of torch is for locks.
# It compiles as pip does: a service whose packages are read-only would compile them at every start.
export UV_COMPILE_BYTECODE := 1
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
export UV_INDEX ?= $(PIP_EXTRA_INDEX_URL)
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
PIP = VIRTUAL_ENV=$(VENV) $(BIN)/uv pip $(1) --no-config || $(BIN)/python -m pip $(1)

$(VENV)/.uv: requirements-uv.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	$(PYTHON) -m venv $(VENV)
	-$(BIN)/$(PIP_INSTALL) $(FROM_LOCK) requirements-uv.lock
	@touch $@

$(VENV)/.installed: LOCK := requirements.lock
$(VENV)/.installed: requirements.lock
$(VENV)/.demo: LOCK := deploy/docker/worker.lock
$(VENV)/.demo: deploy/docker/worker.lock
$(VENV)/.installed $(VENV)/.demo: $(VENV)/.uv pyproject.toml client/pyproject.toml requirements-torch.txt
	$(call PIP,install --quiet $(FROM_LOCK) $(LOCK))
	$(call PIP,install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH))
	$(call PIP,install --quiet $(FROM_TREE) . --editable ./client)
	$(call PIP,check)
	@touch $@

demo: $(if $(wildcard $(VENV)/.installed),install,$(VENV)/.demo) ## Run the main job through the REST API; the result is in demo-output/
	$(BIN)/python demo.py

test: install ## Run every test, with real PostgreSQL and Redis
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-browser: install ## Drive the pages in Chromium through the main job; screenshots in build/screenshots
	BROWSER_TESTS=1 $(BIN)/python -m pytest tests/browser

pictures: test-browser ## Update the documents' pictures of the pages, in docs/images
	$(BIN)/python -m tests.browser.pictures

faults: install ## Break whatever can break, and show what held (about four hours)
	$(BIN)/python -m tests.faults

serve: install ## Start the API and a worker on this machine (SQLite, a folder, the bundled base)
	$(BIN)/python serve.py

lint: install ## Check style, types and the directions of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint deploy/docker/*.Dockerfile

audit: ## Look for known vulnerabilities of the pinned packages (asks PyPI)
	$(PYTHON) -m venv build/audit
	build/audit/bin/$(PIP_INSTALL) pip-audit==2.10.1
	build/audit/bin/pip-audit --disable-pip --require-hashes --requirement requirements.lock \
		--requirement requirements-uv.lock
	build/audit/bin/pip-audit --disable-pip --no-deps --requirement requirements-torch.txt

check-api-image: ## Install what the API's image has, and measure what starting it costs
	rm -rf build/api && $(PYTHON) -m venv build/api
	build/api/bin/$(PIP_INSTALL) $(FROM_LOCK) deploy/docker/api.lock
	build/api/bin/$(PIP_INSTALL) $(FROM_TREE) . --editable ./client
	build/api/bin/python -m pip check
	! build/api/bin/python -m pip list --format freeze | grep -iE '^(torch|diffusers|nvidia|matplotlib)'
	build/api/bin/python -m benchmarks.api_import

images: install ## Run what the Dockerfiles say without docker, and start and use the result (root on Linux)
	$(BIN)/python -m tests.deploy.images

format: install ## Put the code into its standard form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

client: install ## Generate the client's models from the API's OpenAPI document
	$(BIN)/python client/scripts/generate.py

# A lock holds every file's hash for every platform, and each image's lock is a part of the whole.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-package torch --no-emit-package difffit --custom-compile-command 'make lock'
SERVER := --group build pyproject.toml

lock: $(VENV)/.uv ## Pin what pyproject.toml asks for and is not pinned yet; UPGRADE=--upgrade updates all pins
	$(COMPILE) $(SERVER) --all-extras $(UPGRADE) --output-file requirements.lock
	$(COMPILE) $(SERVER) --extra dashboard --extra docs --extra servers --extra traces --constraint requirements.lock \
		--output-file deploy/docker/api.lock
	$(COMPILE) $(SERVER) client/pyproject.toml --extra worker --extra servers --extra traces --extra heic \
		--constraint requirements.lock --output-file deploy/docker/worker.lock
	$(COMPILE) --group uv $(UPGRADE) --output-file requirements-uv.lock

clean: ## Remove what was installed and made
	rm -rf $(VENV) build demo-output difffit-data

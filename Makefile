# Everything runs in .venv, made on first use from requirements.lock.
# Torch's index can be another, for a build without CUDA: make test TORCH_INDEX=https://download.pytorch.org/whl/cpu
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help install client demo test test-browser pictures faults serve lint check-api-image format lock clean
.DEFAULT_GOAL := help

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed ## Make the virtual environment

$(VENV)/.installed: pyproject.toml client/pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
		--constraint requirements.lock --editable '.[worker,demo,recipe,dev,benchmarks]' --editable ./client
	@touch $@

demo: install ## Run the main job through the REST API; the result is in demo-output/
	$(BIN)/python demo.py

test: install ## Run every test, with real PostgreSQL and Redis
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-browser: install ## Drive the pages in Chromium through the main job; screenshots in build/screenshots
	BROWSER_TESTS=1 $(BIN)/python -m pytest tests/browser

pictures: test-browser ## Make the documents' pictures of the pages anew, in docs/images
	$(BIN)/python -m tests.browser.pictures

faults: install ## Break whatever can break, and show what held (about an hour)
	$(BIN)/python -m tests.faults

serve: install ## Start the API and a worker on this machine (SQLite, a folder, the bundled base)
	$(BIN)/honcho start

lint: install ## Check style, types and the directions of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check-api-image: ## Install what the API's image has, and measure what starting it costs
	rm -rf build/api && $(PYTHON) -m venv build/api
	build/api/bin/python -m pip install --quiet --constraint requirements.lock --editable .
	! build/api/bin/python -m pip list --format freeze | grep -iE '^(torch|diffusers|nvidia|matplotlib)'
	build/api/bin/python -m benchmarks.api_import

format: install ## Put the code into its standard form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

client: install ## Write the client's models anew from the API's OpenAPI document
	$(BIN)/python client/scripts/generate.py

lock: ## Pin the versions that a fresh environment gets
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --upgrade '.[worker,demo,recipe,dev,benchmarks]' ./client torch==2.13.0
	build/lock/bin/python -m pip freeze --exclude difffit-server --exclude difffit | sed -E 's/^(torch==[0-9.]+).*/\1/' | grep -v '^nvidia\|^triton' > requirements.lock

clean: ## Remove what was installed and made
	rm -rf $(VENV) build demo-output difffit-data

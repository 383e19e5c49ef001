# The two commands of the README are `make demo` and `make test`; `make help` lists the others.

VENV ?= .venv
# The first Python on the path that the pinned packages have wheels for.
PYTHON ?= $(shell for each in python3 python3.13 python3.12 python3.11; do \
	$$each -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1 \
	&& echo $$each && break; done)
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --disable-pip-version-check --quiet
# requirements*.txt contain every package with its version and hashes, so pip has nothing to resolve.
LOCKED := --no-deps --require-hashes --requirement
UV ?= $(RUN) -m uv
LOCK := UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile pyproject.toml --quiet --universal --generate-hashes \
	--annotation-style line

.PHONY: help demo up setup test test-browser soak chromium lint types tests benchmarks audit lock clean
.DELETE_ON_ERROR:

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/installed  ## start everything with a synthetic data set and its runs: http://127.0.0.1:8501
	@exec $(RUN) -m dashboard --demo

up: $(VENV)/installed  ## start everything without demo data
	@exec $(RUN) -m dashboard

setup: $(VENV)/installed  ## only create the environment

test: lint types tests  ## install what tests need, then lint, types and tests

lint: $(VENV)/installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(VENV)/installed-dev
	$(RUN) -m mypy core jobs dashboard

tests: $(VENV)/installed-dev
	$(RUN) -m pytest -m "not browser" --numprocesses auto --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-browser: $(VENV)/installed-dev chromium  ## test the whole stack in a real browser
	$(RUN) -m pytest -m browser $(PYTEST_ARGS)

soak: $(VENV)/installed-dev  ## cause faults in all parts for hours (SOAK_ARGS="--minutes 120") and count survivals
	PYTHONPATH=. $(RUN) tests/soak.py $(SOAK_ARGS)

# Root on Debian or Ubuntu installs Chromium here; other users get instructions.
chromium:
	@for each in $(or $(CHROMIUM),chromium chromium-browser google-chrome); do \
		command -v "$$each" >/dev/null && exit 0; done; \
	test -z "$(CHROMIUM)" && test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
		&& apt-get update --quiet && apt-get install --yes --no-install-recommends chromium && exit 0; \
	echo "the browser tests need Chromium, and none was found; on Debian: sudo apt-get install chromium;" \
		"elsewhere: make CHROMIUM=/path/to/chrome test-browser" >&2; exit 1

benchmarks: $(VENV)/installed-dev  ## measure speed and memory against the plain loops
	$(RUN) -m benchmarks

# pip-audit is not one of the test packages, because it needs the list of vulnerabilities at api.osv.dev.
audit: $(VENV)/installed-dev  ## look up all installed packages in the list of known vulnerabilities (needs the network)
	@$(INSTALL) pip-audit==2.10.1
	@$(RUN) -m pip_audit --local --vulnerability-service osv || { \
		echo "found vulnerable packages, or could not ask https://api.osv.dev; the lines above say which" >&2; exit 1; }

# `make lock LOCK_ARGS=--upgrade` takes the newest versions that pyproject.toml allows.
lock: $(RUN)  ## renew requirements*.txt from pyproject.toml (needs the network)
	@$(UV) --version >/dev/null 2>&1 || $(INSTALL) uv==0.13.9
	$(LOCK) $(LOCK_ARGS) --extra train --extra test --output-file requirements-dev.txt
	$(LOCK) --extra train --constraint requirements-dev.txt --output-file requirements.txt
	$(LOCK) --extra gpu --constraint requirements.txt --output-file requirements-gpu.txt

clean:  ## remove the environment and caches; the data folder stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis test-results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp file is newer than the list that it was installed from, so pip runs again only if a list has changed.
$(VENV)/installed: requirements.txt pyproject.toml | $(RUN)
	@echo "installing the packages of requirements.txt into $(VENV); the first time takes some minutes"
	@$(INSTALL) $(LOCKED) requirements.txt
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	@$(INSTALL) $(LOCKED) requirements-dev.txt
	@touch $@

$(RUN):
	@test -n "$(PYTHON)" || { echo "DermSlim needs Python 3.11, 3.12 or 3.13, and none is on the path;" \
		"name one: make PYTHON=/path/to/python3.12 setup" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "DermSlim needs Python 3.11, 3.12 or 3.13; $(PYTHON) is another" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "Python's venv module is missing or broken; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

# Huiliu. Everything here needs Python 3.11 and make; `make install` gets the rest.
PYTHON ?= python3
# One more than there are cores: some tests wait, for a browser or a server of their own.
JOBS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
UV_VERSION = 0.13.9
BIN = .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install demo up test lint format bench translations clean

help:
	@echo "make demo     a year of real baskets, a campaign and its result; leaves the console up"
	@echo "make test     linters, types, import contracts and every test"
	@echo "make up       the whole product on this machine (after: $(BIN)/huiliu init)"
	@echo "make install  the virtual environment and the console's assets"
	@echo "make lint | format | bench | translations | clean"

# The stamp makes a second call cost nothing; it is older than its causes when something changed.
install: .venv/.installed

SOURCES = $(wildcard web/assets/*.* web/assets/theme/* web/assets/scripts/* web/translations/*/LC_MESSAGES/*.po)
.venv/.installed: requirements.lock pyproject.toml $(SOURCES)
	@echo "Installing Huiliu into .venv (about 800 MB of packages on a fresh machine) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; say which: make PYTHON=python3.11"; rm -rf .venv; exit 1; }
	@$(BIN)/uv --version 2>/dev/null | grep -q "$(UV_VERSION)" || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@VIRTUAL_ENV=.venv $(BIN)/uv pip sync --quiet --require-hashes requirements.lock
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@echo "Bundling the console's assets …"
	@$(BIN)/python -m web.assets.build
	@touch $@

demo: install
	@$(BIN)/huiliu demo

up: install
	@$(BIN)/huiliu up

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Tests start dozens of processes, which all import the same: let Python keep what it compiled.
test: lint
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --numprocesses $(JOBS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python -m tests.bench

# Collects the texts of templates and code; what is new waits in the .po file without a translation.
translations: install
	$(BIN)/pybabel -q extract --no-location --no-wrap -F web/translations/babel.cfg -k lazy_gettext -o web/translations/messages.pot .
	$(BIN)/pybabel -q update --no-wrap --ignore-obsolete -N -i web/translations/messages.pot -d web/translations
	@rm web/translations/messages.pot
	$(BIN)/python -m web.assets.build

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache web/static/dist

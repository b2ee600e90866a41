# `make demo` and `make test` need nothing but Python 3.10 or later and a package registry.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo page test live test-matrix check check-page docs man bench clean

$(VENV)/installed: pyproject.toml
	@echo "Setting up $(VENV) (once; about a minute) …"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,worker]'
	@touch $@

demo: $(VENV)/installed
	@$(BIN)/python examples/demo.py

page: $(VENV)/installed
	@$(BIN)/python examples/demo.py sandbox --page

# Four at a time, since most tests wait; in the order of the folders, for the slow files come first.
test: $(VENV)/installed
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

# In a real RunPod account, for some cents: see tests/live.
live: $(VENV)/installed
	$(BIN)/python -m pytest -m live tests/live -s -p no:cacheprovider

# On every Python from 3.10 to 3.13 that the path or pyenv has.
test-matrix:
	$(PYTHON) tools/test_matrix.py

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini
	$(BIN)/lint-imports

# The JavaScript's types and style; needs Node 20 or later.
check-page:
	npm ci --ignore-scripts
	npm run check

# The docs as a site, in site/; a link that leads nowhere is an error.
docs: $(VENV)/installed-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/installed-docs: $(VENV)/installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

# The manual pages, from what --help says.
man: $(VENV)/installed
	$(BIN)/python tools/man_page.py man

bench: $(VENV)/installed
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) .venvs .mypy_cache .pytest_cache .ruff_cache .hypothesis demo-output site

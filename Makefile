# `make demo` and `make test` need nothing but Python 3.10 or later and a package registry.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo page test check check-page man bench clean

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

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The JavaScript's types and style; needs Node 20 or later.
check-page:
	npm ci --ignore-scripts
	npm run check

# The manual pages, from what --help says.
man: $(VENV)/installed
	$(BIN)/python -m comfy_remote.cli.man_page man

bench: $(VENV)/installed
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis demo-output

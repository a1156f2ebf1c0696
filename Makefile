# A fresh machine with Python >= 3.11 needs nothing but `make run` or `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/installed

.PHONY: run test check test-peers bench clean

# Trains ResNet-18 on scikit-learn's handwritten digits; ARGS="--data DIR" for your own images.
run: $(STAMP)
	$(BIN)/symgrad train $(ARGS)

test: $(STAMP)
	$(BIN)/pytest $(ARGS)

# Lint, types and the architecture contracts, on the installed package.
check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	cd $(VENV) && bin/mypy -p symgrad --config-file ../pyproject.toml
	cd $(VENV) && bin/lint-imports --config ../pyproject.toml

# Compares live with PyTorch, which is no dependency of anything else here.
test-peers: $(STAMP)
	$(BIN)/python -m pip install --quiet "torch==2.13.0"
	$(BIN)/pytest tests/peers $(ARGS)

bench: $(STAMP)
	$(BIN)/python benchmarks/compare.py $(ARGS)

# The package is installed as users get it, not editable: checkers follow only that, and the
# tests run on it (`pytest`, unlike `python -m pytest`, leaves this folder out of the path).
# Any change of a source file installs it anew.
SOURCES := $(shell find symgrad ir codegen -name '*.py') pyproject.toml
$(STAMP): $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	rm -rf build  # where modules that are gone would linger
	$(BIN)/python -m pip install --quiet --disable-pip-version-check ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info

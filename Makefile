# `make train` and `make test` need nothing but Python 3.11 to 3.13 on the path.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUN ?= runs/nano-$(shell date +%Y%m%d-%H%M%S)

.PHONY: train test test-all lint format clean

train: $(READY)  ## train the built-in model on two CPU cores and show that it learned
	$(BIN)/spiral train nano --run-dir $(RUN) $(ARGS)

test: $(READY)  ## lint, types, import layers and the fast tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

test-all: $(READY)  ## the slow tests too
	$(BIN)/pytest -m "slow or not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV)

# constraints.txt pins what the project is developed with; the published ranges in pyproject.toml are wide. On Linux,
# PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" chooses the smaller CPU build of torch.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[dev]"
	touch $(READY)

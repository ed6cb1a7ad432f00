# Two commands for a stranger: `make demo` and `make test`. Both set up everything they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0

.PHONY: demo test setup setup-dev lint clean

# A Linux machine without a GPU gets the CPU build of torch first, so that no CUDA packages are drawn in.
define install_torch
	@if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null 2>&1; then \
	  $(BIN)/pip install -q $${TORCH_INDEX:+--index-url $$TORCH_INDEX} "$(TORCH)"; fi
endef

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.setup: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(install_torch)
	$(BIN)/pip install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.setup-dev: $(VENV)/.setup
	$(BIN)/pip install -q -c constraints.txt -e ".[dev]"
	@touch $@

setup: $(VENV)/.setup
setup-dev: $(VENV)/.setup-dev

demo: setup
	$(BIN)/aequorea demo

lint: setup-dev
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -q

clean:
	rm -rf $(VENV) build dist

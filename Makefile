# `make demo` and `make test` do everything on a fresh machine with Python 3.11, venv and make.
PYTHON ?= python3.11
# An index for a CPU or CUDA build of torch; empty takes what pip finds (from 190 MB to several GB).
TORCH_INDEX ?=
# Two processes; the tests of a file stay together.
PARALLEL ?= -n 2 --dist loadfile
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
PIP_TORCH := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX),)

.PHONY: install demo test test-all check dev bench study study-full
install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	command -v $(PYTHON) >/dev/null && $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -c constraints.txt $(PIP_TORCH) -e ".[train,evaluate]" --group dev
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt brisque  # only its fit is read
	touch $(STAMP)

demo: install
	$(BIN)/python -m rid.dagster_project.demo

test: install
	$(BIN)/python -m pytest -q $(PARALLEL) -m "not slow and not gpu and not ui"

test-all: install
	$(BIN)/python -m pytest -q $(PARALLEL) -m "not gpu"

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

dev: install
	$(BIN)/python -m rid.dagster_project.demo.dev

# PHOTOS is a Parquet file of people; PEOPLE how many of them are attacked; OUT the study's folder, kept local.
PHOTOS ?=
PEOPLE ?= 8
OUT ?= study
STUDY = $(BIN)/rid study --photos "$(PHOTOS)" --people $(PEOPLE) --out "$(OUT)"

study: install
	$(STUDY)

study-full: install
	$(STUDY) --full

bench: install
	$(BIN)/python -m benchmarks.throughput

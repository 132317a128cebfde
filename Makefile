# Every target sets itself up: on a fresh machine with Python 3.11 or newer, `make demo` is enough.
VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/up-to-date
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
# the first interpreter that is new enough; PYTHON=... chooses another
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)
# Ray starts many processes; without compiled files (some containers forbid them) each would compile its imports again
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo lightly test test-all bench chaos check

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(or $(PYTHON),false) -c '$(NEW_ENOUGH)' 2>/dev/null || { \
		echo "MPS-AMS needs Python 3.11 or newer, and $$(python3 --version 2>&1 || echo no python3) is what was found." >&2; \
		echo "Install one, or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned packages into $(VENV) (a minute or two)"
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	@$(BIN)/python -m jobs.run configs/demo.yaml

# whose losses the tests compare with; apart, since what it asks for besides contradicts what moto asks for
LIGHTLY := build/lightly
lightly: $(LIGHTLY)
$(LIGHTLY): $(STAMP)
	@rm -rf $@ $@.part
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --target $@.part \
		lightly==1.6.0 torchvision==0.28.0 tqdm==4.70.1
	@mv $@.part $@

test: setup lightly
	@$(BIN)/python -m pytest -n 2 --dist loadscope

test-all: setup lightly
	@$(BIN)/python -m pytest -m ''

bench: setup
	@$(BIN)/python -m jobs.bench configs/demo.yaml run.dir=runs/bench

# the whole proof in three quarters of an hour; KILLS=2 is its short form
KILLS ?= 30
chaos: setup
	@$(BIN)/python -m tests.cluster.chaos --seed 0 --kills $(KILLS) runs/chaos-$(KILLS)

check: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

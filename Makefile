# make quickstart: the whole recipe on a small model; make test: the tests (test-fast: the inner loop, a minute;
# test-slow: kills, several processes, the wheel); make lint: ruff. Installs with uv where it is on the PATH, else with pip.
PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.installed
UV := $(shell command -v uv 2>/dev/null)
INSTALL := --constraint constraints.txt --editable '.[test,lint]'

.PHONY: setup quickstart test test-fast test-slow lint clean

setup: $(SETUP)

$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	@echo "Installing into .venv ($(if $(UV),uv,pip)): torch alone is some 200 MB, so this takes minutes the first time"
ifdef UV
	uv venv --quiet --allow-existing --seed --python $(PYTHON) .venv
	uv pip install --python $(BIN)/python $(INSTALL)
else
	$(PYTHON) -m venv .venv
	@# One line a package in place of pip's pages; its errors stay. A pipe hides pip's exit code, so success leaves the file.
	@rm -f $@; { $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off $(INSTALL) && touch $@; } \
		| awk '/^Collecting / { printf "  %s\n", $$2; fflush() } /^Installing collected/ { print "  unpacking"; fflush() } /^Successfully/ { print "  done" }'; \
		test -e $@ || { echo "The installation failed: see the error above"; exit 1; }
endif
	@touch $@

data/sms_spam.tsv: | $(SETUP)
	$(BIN)/python scripts/fetch_sample.py --output_file $@

quickstart: $(SETUP) data/sms_spam.tsv
	$(BIN)/accelerate launch --config_file accelerate_configs/cpu.yaml \
		scripts/train.py --config recipe/configs/quickstart.yaml --overwrite_output_dir

test: $(SETUP)
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: $(SETUP)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not launch"

test-slow: $(SETUP)
	@# Without the sample one test is skipped.
	-@test -e data/sms_spam.tsv || $(BIN)/python scripts/fetch_sample.py --output_file data/sms_spam.tsv
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv runs data

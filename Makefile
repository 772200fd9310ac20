# make quickstart: the whole recipe on a small model; make test: the tests (test-slow: those of minutes); make lint: ruff.
PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.installed

.PHONY: setup quickstart test test-slow lint clean

setup: $(SETUP)

$(SETUP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,lint]'
	touch $@

data/sms_spam.tsv: | $(SETUP)
	$(BIN)/python scripts/fetch_sample.py --output_file $@

quickstart: $(SETUP) data/sms_spam.tsv
	$(BIN)/accelerate launch --config_file accelerate_configs/cpu.yaml \
		scripts/train.py --config recipe/configs/quickstart.yaml --overwrite_output_dir

test: $(SETUP)
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-slow: $(SETUP) data/sms_spam.tsv
	$(BIN)/python -m pytest -m slow -s

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv runs data

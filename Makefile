# `make train` and `make test` do all their own set-up in .venv; nothing else need be installed but
# Python 3.11 or later, make and a C++ compiler (without one the pure-PyTorch path is used).

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready

CXX_FILES = $(shell find csrc benchmarks tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

.PHONY: train test lint clean

# Builds the default dataset, trains, evaluates beside the controls, and writes meshes and images.
train: $(READY)
	$(BIN)/deepspeed launchers/train.py --arch vitocc
	$(BIN)/python launchers/evaluate.py
	$(BIN)/occvae data images data/procedural out/images
	$(BIN)/python launchers/reconstruct.py out/images/*.png -o out/meshes

# Two files of tests at a time, the long ones first. Threads that spin while they wait would take the
# other file's core.
test: $(READY) lint
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

$(READY): pyproject.toml setup.py $(shell find csrc -type f)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip setuptools wheel ninja
	$(BIN)/pip install --quiet torch torchvision
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[dev]'
	$(BIN)/occvae info
	touch $@

clean:
	rm -rf build *.egg-info occvae/*.so .pytest_cache .ruff_cache

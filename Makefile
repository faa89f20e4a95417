# make train      builds the default dataset, trains, evaluates, writes meshes and images
# make test       runs lint and the fast tests: use it before each commit
# make test-all   runs lint and all tests
# make lint       checks the style of Python, C++ and CUDA sources; needs no torch, builds nothing
# make typecheck  checks the types of the package
# make coverage   runs all tests and measures the branch coverage of the package
# make docs       builds the documentation into build/docs; a warning is an error
# make notebooks  executes the notebooks of the documentation, for some minutes, and writes their outputs
# make docs-links lists addresses in the documentation that do not answer; needs the network
# make wheel      builds a wheel with the kernels into dist/; Linux only
# make box        trains the built-in model; its training took 95 minutes on one core
# make clean      removes what was built, except the virtual environments
#
# Each target installs what it needs into .venv or .venv-lint. It needs Python 3.11 or later, make
# and a C++ compiler. Without a compiler, ops use their reference implementation in PyTorch.

PYTHON ?= python3
VENV   ?= .venv
LINTER ?= .venv-lint
BIN    := $(VENV)/bin
READY  := $(VENV)/ready

.PHONY: train box test test-all lint typecheck coverage docs notebooks docs-links wheel clean

CXX_FILES = $(shell find csrc benchmarks tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

# Two test files run at a time, the long ones first. Waiting threads must not spin, because that
# would slow down the other file.
test test-all coverage: export OMP_WAIT_POLICY = PASSIVE
PYTEST = pytest -n 2 --dist loadscope --no-loadscope-reorder

train: $(READY)
	$(BIN)/deepspeed launchers/train.py --arch vitocc
	$(BIN)/python launchers/evaluate.py
	$(BIN)/occvae data images data/procedural out/images
	$(BIN)/python launchers/reconstruct.py out/images/*.png -o out/meshes

box: $(READY)
	$(BIN)/python launchers/box.py

test: lint $(READY)
	$(BIN)/python -m $(PYTEST) -m 'not slow'

test-all: lint $(READY)
	$(BIN)/python -m $(PYTEST)

lint: $(LINTER)/ready
	$(LINTER)/bin/ruff check .
	$(LINTER)/bin/ruff format --check .
	$(LINTER)/bin/clang-format --dry-run --Werror $(CXX_FILES)

typecheck: $(READY)
	$(BIN)/mypy

coverage: $(READY)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m $(PYTEST)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# A page in no table of contents, and a link to a page or anchor that does not exist, are warnings.
SPHINX = $(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet

docs: $(VENV)/docs
	$(SPHINX) --builder html docs build/docs

# Takes some minutes. Look at the notebooks and commit them.
notebooks: $(READY)
	$(BIN)/python -m tests.docs.notebooks

docs-links: $(VENV)/docs
	$(SPHINX) --builder linkcheck docs build/docs-links

# The wheel holds the kernel modules of .venv. auditwheel names the oldest Linux that runs them.
# PyTorch brings the excluded libraries.
wheel: $(VENV)/wheel
	rm -rf build/lib.* build/bdist.* build/wheel dist
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel .
	PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' \
	    --exclude 'libcudart*' --wheel-dir dist build/wheel/*.whl

$(READY): pyproject.toml setup.py $(shell find csrc -type f)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip setuptools wheel ninja
	$(BIN)/pip install --quiet torch torchvision
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[dev]'
	$(BIN)/occvae info
	touch $@

$(VENV)/docs: $(READY)
	$(BIN)/pip install --quiet --group docs
	touch $@

$(VENV)/wheel: $(READY)
	$(BIN)/pip install --quiet --group wheel
	touch $@

$(LINTER)/ready: pyproject.toml
	$(PYTHON) -m venv $(LINTER)
	$(LINTER)/bin/pip install --quiet --upgrade pip
	$(LINTER)/bin/pip install --quiet --group lint
	touch $@

clean:
	rm -rf build dist docs/notebooks/build *.egg-info occvae/*.so .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage*

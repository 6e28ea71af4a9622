# make demo   install what is needed into .venv, then watch the shipped potential relax a structure and run dynamics
# make test   install what is needed into .venv, then run the tests
# Both work without a network once they have run. Another interpreter: make test PYTHON=python3.12

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name) 2>/dev/null)))
# The version that everything is tested with. Where it comes from decides CPU or CUDA: on a machine with a GPU the
# ordinary wheel brings CUDA. A torch that .venv already has, for instance one for another CUDA version, is kept.
TORCH ?= torch==2.13.0
# Test processes. Each is held to one thread (below), so this is also the number of cores in use.
WORKERS ?= 2
PYTEST_ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
ROOMS := potential calculators lammps_plugin training validation workflows cli
# Stamps live inside .venv, so that removing it removes them too.
VENV_STAMP := $(VENV)/.stamp-venv
TORCH_STAMP := $(VENV)/.stamp-torch
PACKAGE_STAMP := $(VENV)/.stamp-package
DEV_STAMP := $(VENV)/.stamp-dev

.DELETE_ON_ERROR:
.PHONY: help demo test test-slow lint format types install install-dev wheel clean

help:
	@sed -n '1,3s/^# //p' $(MAKEFILE_LIST)
	@echo 'also: make test-slow | lint | format | types | wheel | clean'

demo: $(PACKAGE_STAMP)
	$(PY) examples/demo.py

# Two processes of one thread each: torch and BLAS would otherwise start a thread per core in every process.
test: $(DEV_STAMP)
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 \
		$(PY) -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

test-slow: $(DEV_STAMP)
	$(PY) -m pytest -m slow $(PYTEST_ARGS)

lint: $(DEV_STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(DEV_STAMP)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# The links show the type checker the package as it is imported; see [tool.mypy] in pyproject.toml.
types: $(DEV_STAMP)
	@mkdir -p .make/typing/hydrapot
	@for room in $(ROOMS); do ln -sfn "../../../$$room" ".make/typing/hydrapot/$$room"; done
	$(PY) -m mypy

wheel: $(DEV_STAMP)
	$(PY) -m build --wheel --no-isolation

install: $(PACKAGE_STAMP)
install-dev: $(DEV_STAMP)

$(VENV_STAMP):
	@test -n "$(PYTHON)" || { echo 'No Python found: install Python 3.11 or newer, or say make PYTHON=/path/to/python3'; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo '$(PYTHON) is too old: hydrapot needs Python 3.11 or newer (make PYTHON=/path/to/python3)'; exit 1; }
	@$(PIP) --version >/dev/null 2>&1 || "$(PYTHON)" -m venv $(VENV)
	@touch $@

# torch first and on its own: a range in the dependencies would let pip take a newer, larger build.
$(TORCH_STAMP): $(VENV_STAMP)
	@$(PY) -c 'import torch' 2>/dev/null || $(PIP) install '$(TORCH)'
	@touch $@

# The build tools are put into .venv itself: an isolated build would need the network every time pyproject.toml changes.
# setuptools warns that a folder here could shadow a package; that is the mapping we mean, hence the filter.
EDITABLE := PYTHONWARNINGS=ignore $(PIP) install --quiet --no-build-isolation --editable

# Installing also compiles potential/native/, if there is a compiler (setup.py); it does nothing when nothing changed.
NATIVE := $(wildcard potential/native/src/*.?pp potential/native/src/kernels/*.hpp potential/native/include/*.h)

$(PACKAGE_STAMP): pyproject.toml setup.py $(NATIVE) $(TORCH_STAMP)
	$(PIP) install --quiet 'setuptools>=77'
	$(EDITABLE) .
	@touch $@

$(DEV_STAMP): $(PACKAGE_STAMP)
	$(EDITABLE) '.[dev]'
	@touch $@

clean:
	rm -rf .make build dist .pytest_cache .ruff_cache .mypy_cache hydrapot.egg-info

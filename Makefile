# Needs Python 3.11 or newer and make; everything else goes into $(VENV).
#
#   make demo              watch a private etcd that is killed and restarted
#   make test [ARGS=...]   the tests, with and without speedups; ARGS go to pytest
#   make lint              ruff and mypy
#   make test-all          the tests on each Python found, and on the oldest dependencies
#   make coverage          the tests, with a report of the lines and branches they miss
#   make protos            generate trio_etcd_watch/_pb anew from protos/
#   make bench [ARGS=...]  compare with Go's client, aetcd and others; some 11 minutes
#   make chaos SECONDS=600 SEED=7   a real etcd under random faults, checked
#   make fuzz SECONDS=600 SEED=7    the decoder in C against protobuf, under ASAN
#   make clean             remove what these have made

VERSIONS := 3.11 3.12 3.13
VENV := .venv
SECONDS := 60
SEED := 7
ARGS :=
# The tests that decode anything, but for those on a server.
DECODING := tests/unit tests/io tests/machine/test_session_machine.py
# Requirements beyond pyproject.toml's.
PINS :=

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check
PYENV := $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions

# The first of the commands $(1) that runs, and is new enough.
find_python = $(shell for python in $(1); do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)
PYTHON = $(call find_python,python3 \
	$(foreach v,$(VERSIONS),python$(v) $(PYENV)/$(v).*/bin/python3))

.PHONY: demo test lint coverage bench chaos fuzz protos clean test-all test-oldest $(VERSIONS:%=test-%)

demo: $(VENV)/.demo
	@$(BIN)/python examples/demo.py

# Twice, as there are two decoders: in C, if there is a compiler, and in Python.
test: $(VENV)/.test
	$(BIN)/python -m pytest $(ARGS)
	TRIO_ETCD_WATCH_PURE=1 $(BIN)/python -m pytest $(or $(ARGS),$(DECODING))

lint: $(VENV)/.test
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.run $(ARGS)

chaos: $(VENV)/.test
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) --seed $(SEED) $(ARGS)

fuzz: $(VENV)/.test
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --seed $(SEED) $(ARGS)

coverage: $(VENV)/.test
	$(BIN)/python -m coverage run -m pytest $(ARGS)
	$(BIN)/python -m coverage report

test-all: $(VERSIONS:%=test-%) test-oldest

$(VERSIONS:%=test-%): test-%:
	@python="$(call find_python,python$* $(PYENV)/$*.*/bin/python3)"; \
	if [ -z "$$python" ]; then echo "Python $* is not installed: not tested"; \
	else $(MAKE) test VENV=.venv-$* PYTHON="$$python"; fi

# The lower bounds of pyproject.toml.
test-oldest:
	@$(MAKE) test VENV=.venv-oldest PINS="trio==0.31.* protobuf==6.30.0"

# The first path maps protos/ to the package's name in protobuf's pool, where
# `watch.proto` alone might be another package's; tests/test_pb.py runs the same.
protos: $(VENV)/.test
	$(BIN)/python -m protoc --proto_path=trio_etcd_watch/_pb=protos \
		--python_out=. --pyi_out=. protos/watch.proto

clean:
	rm -rf .venv* build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache

# A changed pyproject.toml starts the environment anew: pip alone would keep what is no
# longer required.
$(VENV)/.made: pyproject.toml hatch_build.py trio_etcd_watch/_speedups.c
	$(if $(PYTHON),,$(error no Python 3.11 or newer found: set PYTHON))
	@echo "making $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.bench $(VENV)/.demo $(VENV)/.test: $(VENV)/.%: $(VENV)/.made
	@echo "installing into $(VENV)"
	@$(PIP_INSTALL) --editable '.[$*]' $(PINS)
	@touch $@

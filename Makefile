# Needs Python 3.11 or newer and make; everything else is installed into $(VENV).
#
#   make demo              watch and mirror a private etcd that is killed and compacted
#   make test [ARGS=...]   the tests, with and without speedups; ARGS go to pytest
#                          (WORKERS=0: in one process)
#   make lint              ruff, mypy and basedpyright
#   make docs              the documentation, into build/docs; a warning is an error
#   make test-all          the tests on each Python found, and on the oldest dependencies
#   make servers           build the etcds of servers/versions.txt, to test on them; needs Go
#   make coverage          the tests, with the lines and branches they miss; fails below 98 %
#   make protos            generate trio_etcd_watch/_pb anew from protos/
#   make bench [ARGS=...]  compare with Go's client, aetcd and others; some 11 minutes
#   make chaos SECONDS=600 SEED=7   a real etcd under random faults, checked
#   make validate SECONDS=60 SEED=7
#                          a cluster under faults, judged by etcd's own validator (Go)
#   make fuzz SECONDS=600 SEED=7    the decoder in C against protobuf, under ASAN
#   make mutants [ARGS=...]
#                          break the sans-IO modules in each place, and see the tests
#                          notice; an hour or more (ARGS="--module _cursor --jobs 2")
#   make gcov              which lines of the decoder in C the tests miss; needs GCC
#   make docs-follow       do what the tutorial says, and install what other pages say,
#                          in empty environments
#   make wheels            build and install both wheels, with and without a compiler
#   make package           build what is released, and check it
#   make clean             remove what these targets have made, except the servers
#   make distclean         remove the servers, too

VERSIONS := 3.11 3.12 3.13
VENV := .venv
WORKERS := 3
SECONDS := 60
SEED := 7
ARGS :=
# What is installed for each purpose: extras, which users have too, and dependency groups.
PURPOSE_demo := --editable '.[testing]'
PURPOSE_bench := --editable '.[testing]' --group bench
PURPOSE_test := --editable '.[testing,srv]' --group test
PURPOSE_lint := --group lint
# The tests that decode anything, except those that need a server.
DECODING := tests/unit tests/io tests/machine/test_session_machine.py
# Requirements in addition to pyproject.toml's.
PINS :=

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check
# The pip that comes with Python 3.11 does not know `--group`.
upgrade_pip = $(1)/bin/python -m pip install -qq --disable-pip-version-check 'pip >= 25.1'
PYENV := $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions

# The first of the commands $(1) that runs, and is new enough.
find_python = $(shell for python in $(1); do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)
PYTHON = $(call find_python,python3 \
	$(foreach v,$(VERSIONS),python$(v) $(PYENV)/$(v).*/bin/python3))

.PHONY: demo test lint docs docs-follow coverage gcov wheels package bench chaos validate judge fuzz mutants protos servers clean distclean
.PHONY: test-all test-oldest $(VERSIONS:%=test-%)

demo: $(VENV)/.demo
	@$(BIN)/python examples/demo.py

# The tests run once for each decoder: in C, if there is a compiler, and in Python. There
# may be more workers than cores, since most tests wait for a server most of the time.
PYTEST = $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=worksteal
test: $(VENV)/.test
	$(PYTEST) $(ARGS)
	TRIO_ETCD_WATCH_PURE=1 $(PYTEST) $(or $(ARGS),$(DECODING))

# purerpc requires h2 < 4, so tests run it in an environment of its own.
test coverage $(VERSIONS:%=test-%) test-oldest: .venv-purerpc/.made

.venv-purerpc/.made: pyproject.toml
	@echo "making .venv-purerpc"
	@rm -f $@ && $(PYTHON) -m venv --clear .venv-purerpc
	@.venv-purerpc/bin/python -m pip install -qq --disable-pip-version-check \
		--editable '.[purerpc,testing]'
	@touch $@

lint: $(VENV)/.test $(VENV)/.lint
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy
	$(BIN)/python -m tests.typing

# The reference comes from the docstrings of the modules in Python, not of the one in C.
docs: .venv-docs/.made
	TRIO_ETCD_WATCH_PURE=1 .venv-docs/bin/python -m sphinx -q -W --keep-going -n \
		-E -d build/doctrees docs build/docs
	.venv-docs/bin/python -m tests.support.built_docs build/docs

.venv-docs/.made: pyproject.toml
	@echo "making .venv-docs"
	@rm -f $@ && $(PYTHON) -m venv --clear .venv-docs
	@$(call upgrade_pip,.venv-docs)
	@TRIO_ETCD_WATCH_PURE=1 .venv-docs/bin/python -m pip install -qq \
		--disable-pip-version-check --editable '.[testing]' --group docs
	@touch $@

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.run $(ARGS)

chaos: $(VENV)/.test
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) --seed $(SEED) $(ARGS)

validate: $(VENV)/.test judge
	@test ! -x $(JUDGE) || \
	$(BIN)/python -m tests.chaos.validate --seconds $(SECONDS) --seed $(SEED) $(ARGS)

JUDGE := .judge/judge

ifneq ($(shell command -v go 2>/dev/null),)
judge: $(JUDGE)
else
judge:
	@echo "Go is not installed: etcd's validator is not built, and judges nothing"
endif

$(JUDGE): $(wildcard tests/chaos/judge/*)
	@echo "building etcd's validator"
	@cd tests/chaos/judge && GOWORK=off go build -o $(CURDIR)/$@ .

fuzz: $(VENV)/.test
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --seed $(SEED) $(ARGS)

# In copies of the tree; what survives and may is listed in tests/mutants/survivors.txt.
mutants: $(VENV)/.test
	$(BIN)/python -m tests.mutants $(ARGS)

# Built beside the tree, as a copy: the extension in the tree stays as it is. Without
# optimization, so that each line counts for itself.
GCOV_TESTS := $(addprefix tests/unit/test_,speedups.py speedups_memory.py event_sequences.py batches.py decode.py values.py responses.py)
gcov: $(VENV)/.test
	@rm -rf build/gcov && mkdir -p build/gcov
	@cp -r trio_etcd_watch tests benchmarks servers pyproject.toml build/gcov
	@cd build/gcov && gcc --coverage -std=c99 -g -O0 -fPIC -shared \
		-DPy_LIMITED_API=0x030B0000 \
		-I$$($(CURDIR)/$(BIN)/python -c 'import sysconfig as s; print(s.get_path("include"))') \
		-o trio_etcd_watch/_speedups.abi3.so trio_etcd_watch/_speedups.c
	@cd build/gcov && $(CURDIR)/$(BIN)/python -m pytest -q $(GCOV_TESTS)
	@cd build/gcov && gcov -o trio_etcd_watch trio_etcd_watch/*.gcda >gcov.txt && \
		grep -A 1 /_speedups gcov.txt
	@grep -n '#####' build/gcov/_speedups*.gcov || true

docs-follow: $(VENV)/.test
	$(BIN)/python -m tests.support.tutorial $(ARGS)

wheels: $(VENV)/.test
	$(BIN)/python -m tests.support.wheels $(ARGS)

# A release has the URL of the project and an address (hatch_build.py); without them pyroma
# gives 8 of 10 points. The sdist is unpacked and tested.
package: $(VENV)/.test .venv-package/.made
	@rm -rf dist build/sdist && mkdir -p build/sdist
	.venv-package/bin/python -m build --outdir dist . >build/package.log
	.venv-package/bin/twine check --strict dist/*
	.venv-package/bin/check-wheel-contents dist/*.whl
	.venv-package/bin/pyroma \
		-n $(if $(and $(TRIO_ETCD_WATCH_HOME),$(TRIO_ETCD_WATCH_EMAIL)),10,8) .
	@tar -xzf dist/*.tar.gz -C build/sdist --strip-components=1
	cd build/sdist && TRIO_ETCD_WATCH_PURE=1 $(CURDIR)/$(BIN)/python -m pytest -q tests/unit

.venv-package/.made: pyproject.toml
	@echo "making .venv-package"
	@rm -f $@ && $(PYTHON) -m venv --clear .venv-package
	@$(call upgrade_pip,.venv-package)
	@.venv-package/bin/python -m pip install -qq --disable-pip-version-check --group package
	@touch $@

# Each process writes a file of its own: pytest's workers, and programs under test.
COVERAGE = $(BIN)/python -m coverage
MEASURED = $(COVERAGE) run -m pytest --numprocesses=$(WORKERS) --dist=worksteal
coverage: $(VENV)/.test
	$(COVERAGE) erase
	$(MEASURED) $(ARGS)
	TRIO_ETCD_WATCH_PURE=1 $(MEASURED) $(or $(ARGS),$(DECODING))
	$(COVERAGE) combine --quiet
	$(COVERAGE) report

test-all: $(VERSIONS:%=test-%) test-oldest

$(VERSIONS:%=test-%): test-%:
	@python="$(call find_python,python$* $(PYENV)/$*.*/bin/python3)"; \
	if [ -z "$$python" ]; then echo "Python $* is not installed: not tested"; \
	else $(MAKE) test VENV=.venv-$* PYTHON="$$python"; fi

# The lower bounds of pyproject.toml.
test-oldest:
	@$(MAKE) test VENV=.venv-oldest PINS="trio==0.31.0 h2==3.2.0 protobuf==6.30.0 sortedcontainers==2.4.0 dnspython==2.7.0"

# The first path puts the files below the package's name in protobuf's pool, since another
# package may have a `watch.proto` there; tests/unit/test_pb.py runs the same command.
protos: $(VENV)/.test
	$(BIN)/python -m protoc --proto_path=trio_etcd_watch/_pb=protos \
		--python_out=. --pyi_out=. protos/columns.proto protos/watch.proto

ifneq ($(shell command -v go 2>/dev/null),)
servers: $(patsubst %,.servers/etcd-%,$(shell cat servers/versions.txt))
else
servers:
	@echo "Go is not installed: no servers built"
endif

# etcd's own main packages are built in a module that requires nothing else, so that their
# dependencies have the versions that they require.
.servers/etcd-%:
	@echo "building etcd $*"
	@rm -rf $@.part && mkdir -p $@.part
	@export GOWORK=off && cd $@.part && go mod init servers 2>go.log && \
	go get go.etcd.io/etcd/server/v3@v$* go.etcd.io/etcd/etcdutl/v3@v$* 2>>go.log && \
	go build -trimpath -buildvcs=false -o etcd go.etcd.io/etcd/server/v3 2>>go.log && \
	go build -trimpath -buildvcs=false -o etcdutl go.etcd.io/etcd/etcdutl/v3 2>>go.log || \
	{ cat go.log; exit 1; }
	@mv $@.part $@

clean:
	rm -rf .venv* .judge build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache

distclean: clean
	rm -rf .servers

# A changed pyproject.toml starts the environment anew: pip alone would keep what is no
# longer required.
$(VENV)/.made: pyproject.toml hatch_build.py $(wildcard trio_etcd_watch/_speedups*.[ch])
	$(if $(PYTHON),,$(error no Python 3.11 or newer found: set PYTHON))
	@echo "making $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(call upgrade_pip,$(VENV))
	@touch $@

$(VENV)/.bench $(VENV)/.demo $(VENV)/.lint $(VENV)/.test: $(VENV)/.%: $(VENV)/.made
	@echo "installing into $(VENV)"
	@$(PIP_INSTALL) $(PURPOSE_$*) $(PINS)
	@touch $@

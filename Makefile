# `make up` and `make test` install what is missing on a new host, then call Vagrant and pytest.
# Vagrant's own commands (vagrant up, halt, ssh, provision, destroy) work too.

LAB := sh provision/host/with-groups.sh
BIN := .venv/bin
ENVIRONMENT := sh provision/host/environment.sh
# The host's certificates, for pip and uv: some networks use their own.
CA := /etc/ssl/certs/ca-certificates.crt
ifneq ($(wildcard $(CA)),)
export PIP_CERT ?= $(CA)
export SSL_CERT_FILE ?= $(CA)
endif
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header
# What `make lint` does about a command that this host does not have; in CI, it is an error.
SKIP := $(if $(CI),,--skip-missing)

.PHONY: help up machines prepare box test test-all test-ha unit lint format lock figures status doctor heal drills clean host

help: ## this list
	@sed -n 's/^\([a-z -]*\):[^#]*## /\1\t/p' Makefile | expand --tabs=20

up: host ## start the lab, from nothing
	@$(MAKE) --silent --jobs=2 machines prepare
	@$(MAKE) --silent .lab/venv/installed

# First of the two: make gives standard input to one job alone.
machines:
	@$(LAB) vagrant up

# While the machines start. A failure is ignored here: `up` does it again at the end.
prepare:
	-@$(MAKE) --silent .lab/venv/installed

box: ## build the Debian 13 box for libvirt from Debian's archive: .lab/box/airflow-lab.box
	@rm -rf .lab/box
	@PROVIDER=libvirt sh provision/host/install.sh

test: up $(BIN)/airflow ## check the style, then run the tests on the running lab; CONTRIBUTING.md says what it leaves out
	@sh tests/lint.sh
	@PROVIDER=docker sh provision/host/install.sh
	@PROVIDER=libvirt sh provision/host/install.sh no-box
	@$(LAB) $(BIN)/pytest $(ALL)

test-all: ## as test, and leave nothing out
	@$(MAKE) --no-print-directory test ALL=--all

test-ha: host $(BIN)/airflow .lab/venv/installed ## test the layout ha on a lab of its own, while the machines of this one are halted (tests/ha.sh)
	@$(LAB) sh tests/ha.sh $(ALL)

unit: $(BIN)/airflow ## run the tests that need Python only
	@$(BIN)/pytest tests/unit
	@echo "==> lab: left out: tests/host, which call vagrant, ruby, docker, git and others, and the tests of the lab. Next: make test"

lint: .venv/installed ## check style, types and data (tests/lint.sh); skip the checks whose command this host lacks
	@sh tests/lint.sh $(SKIP)

format: .venv/installed ## format the Python files, and renew what is generated: lab/generate.py
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .
	@$(BIN)/python -m lab.generate

lock: .venv/installed ## lock the newest packages that config/requirements.in allows, and what pyproject.toml adds; then: vagrant provision
	@$(LOCK) --upgrade --python-version 3.11 config/requirements.in --output-file config/requirements.lock
	@$(LOCK) --python-version 3.13 --group provisioning --output-file provision/requirements.lock
	@$(LOCK) --python-version 3.11 --constraint config/requirements.lock pyproject.toml --output-file lab/requirements.lock
	@$(LOCK) --python-version 3.11 --constraint config/requirements.lock --constraint lab/requirements.lock pyproject.toml --group dev --output-file tests/requirements.lock

figures: up ## measure times and memory, for docs/figures.md; destroys the lab and creates it again
	@$(LAB) .lab/venv/bin/python -m lab.figures

status doctor heal: ## call bin/lab status, doctor or heal; more: bin/lab --help
	@bin/lab $@

drills: up ## run every drill of the layout on both brokers, and update its table in docs/failures.md or docs/ha.md
	@bin/lab drill all --broker both; failed=$$?; .lab/venv/bin/python -m lab.generate drills && exit $$failed

clean: ## remove the machines, images, secrets and Python environments
	@$(LAB) sh provision/host/clean.sh

host: ## install and start what this host lacks: Vagrant and the provider
	@sh provision/host/install.sh

# What `lab` imports: bin/lab. Airflow is not among it.
.lab/venv/installed: lab/requirements.lock
	@$(ENVIRONMENT) .lab/venv lab/requirements.lock

# The same, with what the tests and lint.sh import and call.
.venv/installed: tests/requirements.lock
	@$(ENVIRONMENT) .venv tests/requirements.lock

# Airflow too, which the tests of its configuration, DAGs and executor import. A file that `uv sync` would remove.
$(BIN)/airflow: .venv/installed config/requirements.lock
	@$(ENVIRONMENT) .venv tests/requirements.lock config/requirements.lock
	@touch $@

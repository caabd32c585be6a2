# `make up` and `make test` install what is missing on a new host, then call Vagrant and pytest.
# Vagrant's own commands (vagrant up, halt, ssh, provision, destroy) work too.

LAB := sh provision/host/with-groups.sh
BIN := .venv/bin
# The host's certificates, for pip and uv: some networks use their own.
CA := /etc/ssl/certs/ca-certificates.crt
ifneq ($(wildcard $(CA)),)
export PIP_CERT ?= $(CA)
export SSL_CERT_FILE ?= $(CA)
endif
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header

.PHONY: up box test unit lint format lock figures status doctor heal drills clean host

up: host ## brings up the lab, from scratch
	@$(LAB) vagrant up

box: ## makes the box for libvirt again, only from Debian's archive: .lab/box/airflow-lab.box
	@rm -rf .lab/box
	@PROVIDER=libvirt sh provision/host/install.sh

test: up lint ## checks the style, and runs all tests on the running lab
	@PROVIDER=docker sh provision/host/install.sh
	@PROVIDER=libvirt sh provision/host/install.sh no-box
	@$(LAB) $(BIN)/pytest

unit: .venv/installed ## the tests that need no machine
	@$(BIN)/pytest tests/unit

lint: .venv/installed ## style, types and data: tests/lint.sh, which the flake's checks run too
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh tests/lint.sh

format: .venv/installed ## rewrites the Python files, and the table of machines in README.md
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .
	@$(BIN)/python -m lab.readme

lock: .venv/installed ## the newest packages that requirements.in allows; `vagrant provision` brings them to the machines
	@$(LOCK) --upgrade --python-version 3.11 config/requirements.in --output-file config/requirements.lock
	@$(LOCK) --python-version 3.13 provision/requirements.in --output-file provision/requirements.lock
	@$(LOCK) --python-version 3.11 --constraint config/requirements.lock tests/requirements.in --output-file tests/requirements.lock

figures: up .venv/installed ## measures times and memory, for docs/figures.md; destroys the lab and brings it up again
	@$(LAB) $(BIN)/python -m lab.figures

status doctor heal: .venv/installed ## the same as bin/lab status, doctor, heal; see bin/lab --help
	@bin/lab $@

drills: up .venv/installed ## every drill on both brokers, and the table of drills in docs/failures.md
	@bin/lab drill all --broker both
	@$(BIN)/python -m lab.readme drills

clean: ## deletes the machines, the images, the secrets and the Python environment
	@$(LAB) sh provision/host/clean.sh

host:
	@sh provision/host/install.sh

.venv/installed: config/requirements.lock tests/requirements.lock
	@echo "==> lab: the Python environment of the tests (.venv)"
	@python3 -m venv --clear .venv
	@cp nix/libraries.pth .venv/lib/python3.*/site-packages
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement tests/requirements.lock
	@$(BIN)/uv pip install --quiet --require-hashes --requirement config/requirements.lock
	@touch $@

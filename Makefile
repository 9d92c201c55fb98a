# SPDX-License-Identifier: MIT
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# bytecode makes the command start in a third of the time
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo demo-container demo-vm demo-pi demo-web test test-boards test-pythons fresh check bench faults docs install deb clean tools

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.clients  ## aggregate lines of two simulated chips and run real GPIO programs on them
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python examples/demo.py

demo-container: $(VENV)/.clients  ## as root: two containers drive a chip each; one is killed, and its outputs are safe
	@scripts/install-tools busybox-static gpiod runc
	@$(BIN)/python examples/demo_container.py

demo-vm: $(VENV)/.clients  ## boot real guests (User Mode Linux, QEMU) that use a virtual chip as their own
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python examples/demo_vm.py

demo-web: $(VENV)/.dev  ## press a button of a simulated Raspberry Pi in a browser, and write pictures of that
	@scripts/install-tools chromium
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python examples/demo_web.py

demo-pi: $(VENV)/.clients  ## boot an emulated Raspberry Pi 3 and make a virtual chip of its real controller's lines
	@$(BIN)/python examples/demo_pi.py

test: tools  ## set up what the tests need and run them all
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-boards: $(VENV)/.dev  ## boot emulated ARM, RISC-V and other boards and try everything on their real controllers
	@guests/build arm64 armhf riscv64 i386 s390x qemu10-arm >/dev/null
	$(BIN)/python -m pytest -n 2 --dist loadgroup -v tests/boards

test-pythons: $(VENV)/.dev  ## run the unit tests on each Python from 3.11 on, without GPIO libraries and tools
	@scripts/test-pythons

fresh:  ## as root: run make demo and make test on a bare Debian; scripts/fresh --help says more
	@scripts/fresh

check: $(VENV)/.dev  ## lint, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: tools  ## measure, and write the table in docs/benchmarks.md
	@guests/build arm64 >/dev/null
	$(BIN)/python -m benchmarks

faults: tools  ## kill and stop our processes, alone and in pairs, and write the tables in docs/faults.md
	$(BIN)/python -m tests.guest.faults

docs: $(VENV)/.docs  ## build the documentation into docs/_build
	$(BIN)/python -m sphinx -q -W -b html docs docs/_build

install: $(VENV)/.dev  ## install below DESTDIR, with an environment of its own (PREFIX, /usr)
	@DESTDIR=$(DESTDIR) PREFIX=$(or $(PREFIX),/usr) PAGES_PYTHON=$(BIN)/python scripts/install

deb: $(VENV)/.dev  ## build a Debian package into build/, for this machine or ARCHITECTURE and PYTHON_VERSION
	@ARCHITECTURE=$(ARCHITECTURE) PYTHON_VERSION=$(PYTHON_VERSION) PAGES_PYTHON=$(BIN)/python scripts/build-deb build

clean:  ## remove what the targets above made
	rm -rf $(VENV) build docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

tools: $(VENV)/.dev
	@scripts/install-tools
	@guests/build --packages uml x86 uml-7.3 qemu10 arm64 containerd selftests libgpiod

$(VENV)/bin/python:
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || scripts/install-tools python3-venv
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.clients: $(VENV)/bin/python pyproject.toml
	@echo "installing gpiovirt and the GPIO libraries into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[clients,daemon,vcd]'
	@$(BIN)/python -m pip uninstall --quiet --yes setuptools  # its start-up hook costs every command 3 ms
	@$(BIN)/python -m compileall -q src
	@touch $@

$(VENV)/.dev: $(VENV)/.clients
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[clients,daemon,dev,kubernetes,vcd]'
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

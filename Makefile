# `make` prints the targets. Everything lives in .venv and target/; nothing is installed outside the checkout.

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
PACKAGE := torch_ops/robocache
LIBRARY := $(PACKAGE)/lib/librobocache.so
EMULATOR := target/emulator
export LIBTORCH_USE_PYTORCH := 1
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
# cargo's build script, tch and CMake find torch through the python on the path.
WITH_VENV := PATH="$(BIN):$$PATH"
CARGO := $(WITH_VENV) cargo
FEATURES := none cuda torch torch,cuda tch tch,cuda

.DEFAULT_GOAL := help
.PHONY: help setup build demo test test-rust test-emulator test-python test-cpp lint test-gpu bench bench-gpu guard wheel clean

help:  ## print the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 24

$(VENV)/installed: torch_ops/requirements.txt torch_ops/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r torch_ops/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e torch_ops
	touch $@

setup: $(VENV)/installed  ## a virtual environment in .venv with pinned dependencies

build: setup  ## the library, its C++ headers and CMake package, into torch_ops/robocache
	$(CARGO) build --release --features torch,cuda
	mkdir -p $(PACKAGE)/lib/cmake $(PACKAGE)/include
	rm -rf $(PACKAGE)/lib/cmake/robocache $(PACKAGE)/include/robocache
	cp -R csrc/cmake $(PACKAGE)/lib/cmake/robocache
	cp -R csrc/include/robocache $(PACKAGE)/include/robocache
	@# A new file, not the old one overwritten: a running process may have it mapped.
	cp target/release/librobocache.so $(LIBRARY).new && mv $(LIBRARY).new $(LIBRARY)

demo: build  ## align a real robot log to one clock: tensors, a table and a picture in demo/
	$(BIN)/robocache align --demo --output demo

# The emulated driver leaves a core to the others for most of its time; it speaks when they are done.
test: lint test-rust  ## everything below that needs no GPU
	@mkdir -p $(EMULATOR)
	$(MAKE) test-emulator > $(EMULATOR)/log 2>&1 & emulated=$$!; \
	$(MAKE) test-python test-cpp; others=$$?; wait $$emulated; emulated=$$?; cat $(EMULATOR)/log; \
	[ $$others = 0 ] && [ $$emulated = 0 ]

test-rust: setup  ## the Rust tests with every set of features
	@set -e; for features in $(FEATURES); do echo "cargo test --features $$features"; \
	  $(CARGO) test --release --quiet --features "$$(echo $$features | sed 's/^none$$//')"; done

# The emulated driver goes to the test program alone: the build script's NVRTC must not find it. It runs a thread at a
# time, so both programs run at once.
EMULATED := $(CARGO) test --release --quiet --features cuda --test cuda --test cuda_driver --test cuda_voxelize
test-emulator: export ROBOCACHE_REQUIRE_CUDA := 1
test-emulator: setup  ## the CUDA kernels and their launches on an emulated driver, also under AddressSanitizer
	$(BIN)/python tests/emulator/build.py --output $(EMULATOR)/selftest --selftest
	$(EMULATOR)/selftest/selftest
	$(BIN)/python tests/emulator/build.py --output $(EMULATOR)/plain
	$(BIN)/python tests/emulator/build.py --output $(EMULATOR)/asan --sanitize address
	$(EMULATED) --no-run
	$(EMULATED) --config 'target."cfg(all())".runner = ["env", "LD_LIBRARY_PATH=$(CURDIR)/$(EMULATOR)/plain"]' & plain=$$!; \
	ROBOCACHE_CASES=500 ROBOCACHE_EMULATOR_SEED=1 ASAN_OPTIONS=detect_leaks=0 \
	  $(EMULATED) --config "target.\"cfg(all())\".runner = [\"env\", \"LD_LIBRARY_PATH=$(CURDIR)/$(EMULATOR)/asan\", \
	  \"LD_PRELOAD=$$(g++ -print-file-name=libasan.so)\"]"; asan=$$?; wait $$plain && exit $$asan

test-python: build  ## the operator in every Python-side runtime, the command line and the documentation
	$(WITH_VENV) python -m pytest -q tests/torch

test-cpp: build  ## C++ programs against the CMake package, built and run
	$(WITH_VENV) python -m pytest -q tests/cpp

lint: setup  ## formatting, clippy with every set of features, ruff, mypy
	cargo fmt --check
	@set -e; for features in $(FEATURES); do echo "cargo clippy --features $$features"; \
	  $(CARGO) clippy --release --quiet --all-targets --features "$$(echo $$features | sed 's/^none$$//')" -- -D warnings; done
	$(BIN)/ruff check --config torch_ops/pyproject.toml torch_ops tests examples benches
	$(BIN)/ruff format --check --config torch_ops/pyproject.toml torch_ops tests examples benches
	$(BIN)/mypy --config-file torch_ops/pyproject.toml torch_ops/robocache

test-gpu:  ## the same tests on a CUDA machine with torch and the built library, no cargo; also under compute-sanitizer
	PYTHON="$(PYTHON)" bash tests/gpu.sh

bench: build  ## the Rust core with criterion; the operators beside their peers on this CPU; the pages made of the record
	$(CARGO) bench --bench resample --bench fuse --bench voxelize
	$(BIN)/python benches/peers.py --record benches/record
	$(BIN)/python benches/report.py

bench-gpu:  ## the operators beside their peers on a CUDA machine with torch and the built library, no cargo
	PYTHONPATH=torch_ops $(PYTHON) benches/peers.py --device cuda --record benches/record
	PYTHONPATH=torch_ops $(PYTHON) benches/report.py

# The checkout's own Python where there is one: a CUDA machine has none.
guard: DEVICE ?= cpu
guard:  ## the bars beside eager torch, against the record; DEVICE=cuda for a GPU
	PYTHONPATH=torch_ops $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benches/guard.py --device $(DEVICE)

wheel: build  ## a wheel with the library inside, in target/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir target/wheel ./torch_ops

clean:  ## remove what the targets made
	rm -rf target demo $(VENV) $(PACKAGE)/lib $(PACKAGE)/include torch_ops/build torch_ops/*.egg-info

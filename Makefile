# rustup installs here, and a shell opened before that does not know it.
export PATH := $(PATH):$(HOME)/.cargo/bin

SPARKNET := $(or $(CARGO_TARGET_DIR),target)/release/sparknet
SOLVER := models/lenet/solver.prototxt
MODEL := models/lenet/net.prototxt
WEIGHTS = models/lenet/lenet_iter_$(shell sed -n 's/^max_iter: *//p' $(SOLVER)).caffemodel
WORKERS ?= 2
TAU ?= 10
FUZZ_SECONDS ?= 60
BENCH ?=
PYTHON ?= python3
WHEELS := $(or $(CARGO_TARGET_DIR),target)/wheels

.PHONY: help deps build python demo test test-python bench bench-spark lint fuzz clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST)

deps: ## check for Rust and a C compiler; install the compiler where that is allowed
	@scripts/deps.sh build

build: deps ## build the command target/release/sparknet
	cargo build --release --locked

python: deps .venv/bin/maturin ## build the Python package's wheel and install it into .venv
	rm -f $(WHEELS)/sparknet-*.whl
	.venv/bin/maturin build --release --locked --manifest-path python/Cargo.toml --out $(WHEELS)
	.venv/bin/pip install --quiet --force-reinstall --no-deps $(WHEELS)/sparknet-*.whl

.venv/bin/python:
	@PYTHON=$(PYTHON) scripts/deps.sh python
	$(PYTHON) -m venv .venv

.venv/bin/maturin: | .venv/bin/python
	.venv/bin/pip install --quiet 'maturin>=1.9,<2' numpy

# Newer than requirements-test.txt once all of it is there.
.venv/test: python/requirements-test.txt | .venv/bin/python
	.venv/bin/pip install --quiet -r python/requirements-test.txt
	@touch $@

demo: build ## train LeNet on Fashion-MNIST for about half a minute and evaluate it
	@if [ ! -d data/fashion_mnist_train_lmdb ] || [ ! -d data/fashion_mnist_test_lmdb ]; then \
		scripts/deps.sh dataset && $(SPARKNET) dataset fashion-mnist data; \
	fi
	$(SPARKNET) train --solver $(SOLVER) --workers $(WORKERS) --tau $(TAU)
	$(SPARKNET) test --model $(MODEL) --weights $(WEIGHTS)

test: deps ## run the engine's and the command's tests (one of them trains on Fashion-MNIST)
	@scripts/deps.sh dataset
	cargo test --locked

test-python: build python .venv/test ## build and install the Python package and run its tests on a Spark of its own
	@scripts/deps.sh java
	SPARKNET=$(abspath $(SPARKNET)) .venv/bin/python -m pytest python/tests

bench: build ## time training steps beside PyTorch's for an hour into bench/results/ (BENCH=--quick: minutes)
	@test -x bench/.venv/bin/python || python3 -m venv bench/.venv
	bench/.venv/bin/pip install --quiet -r bench/requirements.txt
	bench/.venv/bin/python bench/compare.py $(BENCH)

bench-spark: python ## time NetEstimator beside PyTorch's TorchDistributor on Spark into bench/results/ (BENCH='--rounds 3')
	@scripts/deps.sh java
	@scripts/deps.sh dataset
	@test -x bench/.venv/bin/python || python3 -m venv bench/.venv
	bench/.venv/bin/pip install --quiet -r bench/requirements.txt -r bench/requirements-spark.txt
	bench/.venv/bin/pip install --quiet --force-reinstall --no-deps $(WHEELS)/sparknet-*.whl
	bench/.venv/bin/python bench/spark.py $(BENCH)

.venv/bin/ruff: | .venv/bin/python
	.venv/bin/pip install --quiet 'ruff==0.17.*'

lint: deps .venv/bin/ruff ## check formatting and the warnings of clippy and ruff
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	.venv/bin/ruff format --check python bench examples
	.venv/bin/ruff check python bench examples

fuzz: deps ## feed random input to the text and binary readers for a minute (FUZZ_SECONDS)
	SPARKNET_FUZZ_SECONDS=$(FUZZ_SECONDS) cargo test -p sparknet-proto --locked fuzz

clean: ## remove what was built; data/ and trained models stay
	cargo clean

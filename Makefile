# The two commands that matter: `make demo` and `make test`. Both install what is missing (root only for that), work
# without a terminal and can be run again.

PATH := $(HOME)/.cargo/bin:$(PATH)
export PATH

.PHONY: demo test bench image build clean

demo:
	@xtask/setup.sh demo
	@cargo xtask demo

test:
	@xtask/setup.sh test
	@cargo xtask ci

bench:
	@xtask/setup.sh bench
	@cargo xtask image
	@cargo build --release --package machine-cli
	@cargo run --quiet --package bench

image:
	@xtask/setup.sh demo
	@cargo xtask image

build:
	@cargo build --release --package machine-cli --package client-cli
	@cargo xtask agent

clean:
	@cargo clean

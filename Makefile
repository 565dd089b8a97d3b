# `make help` lists the targets. Each works on a machine that has a Rust toolchain and nothing else, as root or not.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
BIN := $(TARGET)/release/fulgurite
ASSETS := $(TARGET)/assets

.DEFAULT_GOAL := help
.PHONY: help demo test test-vm test-clients bench build install uninstall fmt lint doc deny advisories ci clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Compile zstd's C files, and Java by workers, all in sandboxes, and show what that costs
	@scripts/setup demo
	$(CARGO) build --release --locked
	@sources=$$(scripts/zstd-sources) && echo "$(BIN) demo $$sources" && $(BIN) demo "$$sources"

test: ## Run all tests that can run on this machine, and name those that can't
	@scripts/setup test
	@scripts/test

test-vm: ## Run the privileged tests in guests with other kernels (needs qemu)
	@tests/vm/all.sh

test-clients: ## Let real clients build on the server: Bazel, BuildGrid's bgd, a conformance suite
	@scripts/setup clients
	$(CARGO) build --release --locked
	@FULGURITE_BIN="$(BIN)" tests/clients/all.sh

bench: ## Measure sandboxes beside the peers that are installed
	@scripts/setup bench
	$(CARGO) build --release --locked
	$(BIN) bench sandbox

build: ## Build the optimized program
	$(CARGO) build --release --locked

install: ## Install program, man pages and completions below PREFIX (default /usr/local)
	@[ -x "$(BIN)" ] || $(MAKE) build
	@rm -rf "$(ASSETS)" && mkdir -p "$(ASSETS)"
	$(BIN) man "$(ASSETS)"
	$(BIN) completions bash >"$(ASSETS)/fulgurite.bash"
	$(BIN) completions zsh >"$(ASSETS)/_fulgurite"
	$(BIN) completions fish >"$(ASSETS)/fulgurite.fish"
	install -D -m 755 "$(BIN)" "$(DESTDIR)$(PREFIX)/bin/fulgurite"
	install -d "$(DESTDIR)$(PREFIX)/share/man/man1"
	install -m 644 "$(ASSETS)"/*.1 "$(DESTDIR)$(PREFIX)/share/man/man1/"
	install -D -m 644 "$(ASSETS)/fulgurite.bash" "$(DESTDIR)$(PREFIX)/share/bash-completion/completions/fulgurite"
	install -D -m 644 "$(ASSETS)/_fulgurite" "$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_fulgurite"
	install -D -m 644 "$(ASSETS)/fulgurite.fish" "$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/fulgurite.fish"

uninstall: ## Remove what install put below PREFIX
	rm -f "$(DESTDIR)$(PREFIX)/bin/fulgurite"
	rm -f "$(DESTDIR)$(PREFIX)/share/man/man1/fulgurite.1" "$(DESTDIR)$(PREFIX)"/share/man/man1/fulgurite-*.1
	rm -f "$(DESTDIR)$(PREFIX)/share/bash-completion/completions/fulgurite"
	rm -f "$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_fulgurite"
	rm -f "$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/fulgurite.fish"

fmt: ## Format all code
	$(CARGO) fmt --all

lint: ## Check format and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features --locked -- -D warnings

doc: ## Build the documentation of all crates
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --workspace --locked

deny: ## Check licenses, sources and banned crates (installs cargo-deny, which takes minutes)
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install cargo-deny --locked
	$(CARGO) deny --workspace --locked check bans licenses sources

advisories: ## Check for known vulnerabilities (fetches their database)
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install cargo-deny --locked
	$(CARGO) deny --workspace --locked check advisories

ci: ## Do all that CI does
	@.ci/run

clean: ## Remove what was built
	$(CARGO) clean
	rm -rf demo-out

# `make help` lists the targets. What they need from Debian's packages, `make deps` installs.

PREFIX ?= /usr/local
ARCH   := x86_64-unknown-linux-gnu
BIN    := target/$(ARCH)/release
AGENT  := target/$(ARCH)/agent/sandbox-agent
GUEST  := build/guest/vmlinux build/guest/initramfs.cpio

.PHONY: help deps build binaries kernel lab-kernel bundles demo test test-docker test-soak test-faults lint bench fuzz lab install clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo      run a real Debian userland in a micro-VM and show what happened'
	@echo 'make build     sandbox, guest kernel and initramfs (target/, build/guest/)'
	@echo 'make test      unit, lab and integration tests, one line per suite'
	@echo 'make test-docker  the lines that people type, on a real dockerd, with runc and with sandbox (an hour in the lab); writes docs/docker.md'
	@echo 'make test-soak  200 docker runs in a row and 20 at once: nothing is left (40 minutes in the lab)'
	@echo 'make test-faults  processes killed, disks full, greedy guests: only the container suffers'
	@echo 'make lint      formatting, clippy, shell scripts, where unsafe code may be'
	@echo 'make bench     measure, and write the table in docs/performance.md'
	@echo 'make fuzz      fuzz targets, each for a minute; SECONDS_EACH=600 for longer'
	@echo 'make lab       a shell on the simulated machine; CMD="..." runs one command there'
	@echo 'make install   to PREFIX=$(PREFIX)'
	@echo 'make deps      install the Debian packages that are missing'
	@echo 'make clean     remove target/ and build/ (not the cache, ~/.cache/sandbox)'
	@echo
	@echo 'SANDBOX_LAB=auto|always|never: test, demo and bench run in the lab where hardware virtualization is missing (auto).'

deps:
	@tests/deps

# Kernel and Rust builds run side by side: each has long stretches in which it keeps only one core busy.
build: deps
	@$(MAKE) --no-print-directory -j2 kernel binaries

binaries:
	@echo 'build: sandbox, rootfs-builder, guest agent'
	@cargo build --release -p sandbox -p rootfs-builder
	@cargo build --profile agent -p sandbox-agent
	@mkdir -p build/guest
	@$(BIN)/rootfs-builder --agent $(AGENT) --output build/guest/initramfs.cpio

kernel:
	@kernel-config/build guest

bundles: deps
	@tests/bundles/make

demo: build bundles
	@tests/on-kvm tests/demo

test: deps
	@tests/run

test-docker: build
	@tests/docker/test --write

test-soak: build
	@tests/docker/test --soak

test-faults: build
	@tests/docker/test --faults

lint: deps
	@tests/lint

bench: build bundles
	@cargo build --release -p tests
	@tests/on-kvm tests/bench
	@tests/bench --write
	@tests/docker/test --bench
	@tests/bench-io --write

fuzz: deps
	@tests/fuzz $(SECONDS_EACH)

lab: deps
	@tests/lab/lab build
	@$(if $(value CMD),tests/lab/lab run '$(subst ','\'',$(value CMD))',tests/lab/lab shell)

install:
	@for file in $(BIN)/sandbox $(GUEST); do [ -e $$file ] || { echo "make install: $$file is missing: run 'make build' first" >&2; exit 1; }; done
	install -D -m 755 $(BIN)/sandbox $(DESTDIR)$(PREFIX)/bin/sandbox
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/sandbox $(GUEST)
	@[ '$(PREFIX)' = /usr/local ] || printf 'next: name kernel and initramfs in /etc/sandbox/config.toml, as the built-in paths are below /usr/local (docs/config.md):\n%s\n%s\n' \
		'kernel = "$(PREFIX)/share/sandbox/vmlinux"' 'initramfs = "$(PREFIX)/share/sandbox/initramfs.cpio"'
	@[ -n '$(DESTDIR)' ] || echo "next: 'sudo $(PREFIX)/bin/sandbox install' for docker and containerd (docs/install.md)"

clean:
	rm -rf target build

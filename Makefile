# The front door of forkd. Meson and ninja do the building; `make help` lists what there is.
BUILD ?= build
N ?= 10
CMD ?= forkd doctor
export N

.PHONY: all help deps build install deb quickstart test check lab format tidy docs sanitize fuzz check-floors bench bench-pause clean
.DEFAULT_GOAL := build
all: build

help:
	@echo "make              build forkd into $(BUILD)/"
	@echo "make quickstart   boot one parent and fork $(N) children from it (N=100 make quickstart: a hundred)"
	@echo "make test         everything: here, with sanitizers, and in the lab"
	@echo "make check        what is quick of it: here only"
	@echo "make lab CMD=...  a command in the emulated KVM host, with this tree and a guest image in it"
	@echo "make bench        what a fork costs, beside the least it can cost (docs/benchmarks.md)"
	@echo "make install      into DESTDIR, below prefix (/usr/local): programs, pages, completions, the service"
	@echo "make deb          a Debian package in build-deb/"
	@echo "make bench-pause  what a BRANCH makes a guest wait for (QUICK=1: some minutes; docs/benchmarks.md)"
	@echo "make deps         install what is missing (apt)"
	@echo "make format tidy docs check-floors sanitize fuzz clean"

deps:
	@scripts/install-deps

# Packages first: without them there is nothing to configure with.
$(BUILD)/build.ninja:
	@scripts/install-deps --check
	@echo "configuring $(BUILD)/ ..."
	@meson setup $(BUILD) >/dev/null || { meson setup $(BUILD) 2>&1 | tail -n 20; exit 1; }

# First the build's own description, whose output is for meson's log, then the build: on a terminal a line that counts.
build: $(BUILD)/build.ninja
	@ninja -C $(BUILD) build.ninja >$(BUILD)/configure.log 2>&1 || { tail -n 20 $(BUILD)/configure.log; exit 1; }
	@cd $(BUILD) && \
	if ninja -n | grep -q '^ninja: no work to do'; then :; \
	elif [ -t 1 ]; then NINJA_STATUS='building, %f of %t: ' ninja; \
	else echo "building ..."; ninja --quiet; fi

install: build
	@$(if $(prefix),meson configure $(BUILD) -Dprefix=$(prefix) && ninja -C $(BUILD) --quiet)
	@DESTDIR=$(DESTDIR) meson install -C $(BUILD) --no-rebuild --quiet

deb: deps
	@packaging/make-deb

quickstart: deps
	@$(MAKE) --no-print-directory build
	@$(BUILD)/forkd quickstart -n $(N)

test:
	@scripts/install-deps --node
	@scripts/run-tests --build $(BUILD) $(TESTS)

check: build
	@scripts/run-tests --build $(BUILD) --no-lab --no-sanitizers $(TESTS)

lab: deps build
	@scripts/run-in-lab $(BUILD) '$(CMD)'

sanitize: deps
	@scripts/run-tests --build $(BUILD) --sanitizers-only $(TESTS)

fuzz: deps
	@scripts/run-fuzz

check-floors:
	@scripts/check-floors && echo "The floors hold."

bench: build
	@$(BUILD)/bench/vmbench spawn -n 100
	@$(BUILD)/bench/vmbench spawn -n 100 --product

bench-pause: build
	@bench/pause-window/run --build $(BUILD) $(if $(QUICK),--quick)

# Generated and foreign files are left alone.
SOURCES = $(shell git ls-files 'src/*.[ch]' 'tests/*.[ch]' 'guest/*.[ch]' 'bench/*.[ch]')

format:
	@clang-format -i $(SOURCES)

tidy: build
	@scripts/run-tidy $(BUILD)

docs:
	@scripts/seccomp-tags update src docs/security.md

clean:
	@rm -rf build build-*

# Meson does the work; this installs what is missing and calls it.
#   make          builds build/nibble
#   make demo     builds it, then classifies the documents in samples/
#   make check    builds it with its tests and runs them all
#   BUILD=folder  where to build; MESON_FLAGS=… for meson setup; CC=clang for another compiler
BUILD ?= build
MESON_FLAGS ?=

.PHONY: all demo check clean
all: $(BUILD)/build.ninja
	ninja -C $(BUILD) nibble

$(BUILD)/build.ninja:
	scripts/install-deps build
	meson setup $(BUILD) $(MESON_FLAGS) -Dtests=disabled

demo: all
	$(BUILD)/nibble classify --context samples/context.json samples/*.txt

check:
	scripts/install-deps build check
	scripts/check $(BUILD) $(MESON_FLAGS)

clean:
	rm -rf $(BUILD)

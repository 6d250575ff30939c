# sqlite-faiss. `make` builds build/faiss.so, `make test` runs every test; both install
# what they need with apt. `make help` lists the other targets and the variables.

VERSION := 0.1.0
FAISS_PINNED := 1.12.0

# ---- what a build can be told ----------------------------------------------------------

PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib/sqlite3
# Debian's own Python: its sqlite3 module can load extensions, others often cannot.
PYTHON ?= /usr/bin/python3
CFLAGS ?= -O2 -g
CXXFLAGS ?= -O2 -g
WERROR ?=
SANITIZE ?=
BENCH_DATA ?=
TEST_SECONDS ?= 60
PYTEST_JOBS ?= $(shell nproc)
INSTALL_PACKAGES ?= yes
# The SIMD levels that a wheel carries side by side.
WHEEL_LEVELS ?= $(if $(filter x86_64,$(machine)),generic avx2 avx512,generic)

# Everything that is generated goes here.
BUILD = build

# An installed FAISS with its C API (/usr/local), or a source tree to build instead of the
# pinned one, and the versions that the code is made for.
FAISS_PREFIX ?=
FAISS_SOURCE ?=
FAISS_VERSIONS ?= 1.12
# The SIMD level FAISS is compiled for (it does not choose at run time), and where the
# builds are kept, one per level. `make clean` keeps them; checkouts may share them.
FAISS_LEVEL ?= $(cpu_level)
FAISS_BUILD ?= $(BUILD)/faiss-$(if $(FAISS_SOURCE),source,$(FAISS_PINNED))

MAKEFLAGS += --no-print-directory

# ---- variants --------------------------------------------------------------------------

# Each kind of instrumentation has a directory of its own.
ifeq "$(SANITIZE)" ""
    OUT := $(BUILD)
else ifeq "$(SANITIZE)" "address,undefined"
    OUT := $(BUILD)/asan
    instrument := -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
else ifeq "$(SANITIZE)" "thread"
    OUT := $(BUILD)/tsan
    instrument := -O1 -fsanitize=thread
else ifeq "$(SANITIZE)" "valgrind"
    OUT := $(BUILD)/valgrind
    instrument := -O1
else
    $(error SANITIZE is '$(SANITIZE)'; it must be address,undefined or thread or valgrind)
endif

# src/faiss/build.sh says why these two need a FAISS of their own, without OpenMP.
ifneq "$(filter thread valgrind,$(SANITIZE))" ""
    override FAISS_LEVEL := baseline
    override FAISS_PREFIX :=
    openmp := -fopenmp-simd
else
    openmp := -fopenmp
endif

# ---- FAISS -----------------------------------------------------------------------------

machine := $(shell uname -m)
cpu_flags := $(shell grep -m 1 '^flags' /proc/cpuinfo)
has = $(if $(filter-out $(cpu_flags),$1),,yes)
cpu_level := $(or \
    $(if $(call has,avx512f avx512cd avx512vl avx512dq avx512bw),avx512),\
    $(if $(call has,avx2 fma f16c),avx2),\
    generic)

ifneq "$(FAISS_PREFIX)" ""
    # libfaiss_c_LEVEL.a beside libfaiss_LEVEL.a, or both without a level, or both shared.
    faiss_dirs := $(addprefix $(FAISS_PREFIX)/,lib lib64 lib/$(machine)-linux-gnu)
    faiss_c := $(firstword $(wildcard \
        $(foreach name,libfaiss_c_$(FAISS_LEVEL).a libfaiss_c.a libfaiss_c.so,\
            $(addsuffix /$(name),$(faiss_dirs)))))
    ifeq "$(faiss_c)" ""
        $(error FAISS_PREFIX: no libfaiss_c.a and no libfaiss_c.so in $(faiss_dirs))
    endif
    ifeq "$(findstring libfaiss_c_,$(faiss_c))" ""
        override FAISS_LEVEL := generic
    endif
    FAISS_LIBS := $(faiss_c) $(subst libfaiss_c,libfaiss,$(faiss_c))
    FAISS_INCLUDES := $(FAISS_PREFIX)/include $(FAISS_PREFIX)/include/faiss
    FAISS_FETCHED :=
    FAISS_BUILT := $(FAISS_LIBS)
    build_packages := $(BUILD)/packages-build
else
    faiss_suffix := $(if $(filter avx512 avx2,$(FAISS_LEVEL)),_$(FAISS_LEVEL))
    faiss_out := $(FAISS_BUILD)/$(FAISS_LEVEL)
    FAISS_LIBS := $(faiss_out)/c_api/libfaiss_c$(faiss_suffix).a \
        $(faiss_out)/faiss/libfaiss$(faiss_suffix).a
    # Stamps named by what is fetched and how it is built, so that their age does not
    # matter: a new checkout can use the builds of an older one.
    ifeq "$(FAISS_SOURCE)" ""
        faiss_pin := $(shell cat src/faiss/Cargo.lock src/faiss/build.sh | sha256sum | cut -c 1-12)
        faiss_source := $(FAISS_BUILD)/source/faiss-sys/faiss
        FAISS_FETCHED := $(FAISS_BUILD)/fetched-$(faiss_pin)
        FAISS_BUILT := $(faiss_out)/built-$(faiss_pin)
    else
        faiss_source := $(FAISS_SOURCE)
        FAISS_FETCHED :=
        FAISS_BUILT := $(faiss_out)/built
    endif
    FAISS_INCLUDES := $(faiss_source)
    ifeq "$(filter avx512 avx2 generic baseline,$(FAISS_LEVEL))" ""
        $(error FAISS_LEVEL is '$(FAISS_LEVEL)'; it must be avx512, avx2 or generic)
    endif
    build_packages := $(BUILD)/packages-build-faiss
endif

# ---- compiler and linker ---------------------------------------------------------------

warnings := -Wall -Wextra -Wpedantic -Wshadow $(if $(filter 1,$(WERROR)),-Werror)
# FAISS's headers are not written to these warnings, hence -isystem. Given for a directory
# that the compiler searches anyway, it would break C++'s own headers.
includes := -Isrc -I$(OUT) \
    $(addprefix -isystem ,$(filter-out /usr/include /usr/local/include,$(FAISS_INCLUDES)))
defines := -D_GNU_SOURCE -DSQLITE_FAISS_VERSION='"$(VERSION)"' \
    -DFAISS_SIMD_LEVEL='"$(FAISS_LEVEL)"'
common := $(warnings) -fPIC -fvisibility=hidden -pthread $(openmp) $(includes) $(defines) -MMD -MP
compile_c := $(CC) -std=c11 $(common) $(CPPFLAGS) $(CFLAGS) $(instrument)
compile_cxx := $(CXX) -std=c++17 $(common) $(CPPFLAGS) $(CXXFLAGS) $(instrument)

# Debian chooses among the flavours of libopenblas.so.0 by priority. Naming the directory
# makes it the OpenMP one, at run time too, whichever others are installed.
openblas := /usr/lib/$(machine)-linux-gnu/openblas-openmp
libraries := $(FAISS_LIBS) -L$(openblas) -Wl,-rpath,$(openblas) -lopenblas -lgomp -lcjson -lm
link := $(CXX) -pthread $(LDFLAGS) $(instrument)
link_extension := $(link) -shared -Wl,-z,defs -Wl,--exclude-libs,ALL \
    -Wl,--version-script=src/faiss.map

sources := $(wildcard src/*.c src/*.cpp)
sql := $(wildcard sql/*.sql)
objects := $(patsubst src/%,$(OUT)/%.o,$(basename $(sources)))
# The same sources calling SQLite as a library, not through a host's pointers: what the
# programs of tests/unit, tests/concurrency and tests/faults are linked with.
core_objects := $(patsubst src/%,$(OUT)/core/%.o,$(basename $(sources)))
unit_tests := $(patsubst tests/%.c,$(OUT)/%,$(wildcard tests/unit/*_test.c))
# The tests of the loops that are vectorized, at the levels below this build's, too.
lower_levels := $(if $(filter avx512,$(FAISS_LEVEL)),avx2 generic) \
    $(if $(filter avx2,$(FAISS_LEVEL)),generic)
vectorized := kernel rounding tiles
unit_tests += $(foreach level,$(lower_levels),$(foreach name,$(vectorized),\
    $(OUT)/unit/$(name)_test-$(level)))
concurrency_tests := $(patsubst tests/%.c,$(OUT)/%,$(wildcard tests/concurrency/*.c))
fault_tests := $(patsubst tests/%.c,$(OUT)/%,$(wildcard tests/faults/*.c))
formatted := $(wildcard $(foreach d,src tests/unit tests/concurrency tests/faults tests/bench,\
    $d/*.c $d/*.h $d/*.cpp))

# ---- the extension ---------------------------------------------------------------------

.DELETE_ON_ERROR:
.SECONDARY:
.SUFFIXES:

.PHONY: all
all: $(OUT)/faiss.so

$(OUT)/faiss.so: $(objects) src/faiss.map $(FAISS_BUILT)
	$(link_extension) -o $@ $(objects) $(libraries)

# The loops over sketches, and those that make them, are vectorized for the SIMD level that FAISS
# is built for.
flags_of_avx512 := -mavx512f -mavx512cd -mavx512vl -mavx512dq -mavx512bw -mprefer-vector-width=512
flags_of_avx2 := -mavx2
flags_of_kernel := -O3 $(flags_of_$(FAISS_LEVEL))
flags_of_tiles := $(flags_of_kernel)
flags_of_rounding := $(flags_of_kernel)

$(OUT)/%.o: src/%.c $(OUT)/flags | $(OUT)/checked $(OUT)/sql.h
	$(compile_c) $(flags_of_$*) -c -o $@ $<

$(OUT)/%.o: src/%.cpp $(OUT)/flags | $(OUT)/checked
	$(compile_cxx) -c -o $@ $<

$(OUT)/core/%.o: src/%.c $(OUT)/flags | $(OUT)/checked $(OUT)/sql.h
	@mkdir -p $(@D)
	$(compile_c) $(flags_of_$*) -DSQLITE_CORE -c -o $@ $<

$(OUT)/core/%.o: src/%.cpp $(OUT)/flags | $(OUT)/checked
	@mkdir -p $(@D)
	$(compile_cxx) -DSQLITE_CORE -c -o $@ $<

# read_rows.sql becomes `#define SQL_READ_ROWS "..."`: without the lines that start with --,
# the others joined by a blank.
$(OUT)/sql.h: $(sql) $(OUT)/flags
	@awk 'function finish() { if (name != "") print "#define SQL_" toupper(name) " \"" text "\"" } \
	    FNR == 1 { finish(); name = FILENAME; gsub(/.*\/|\.sql$$/, "", name); text = "" } \
	    { gsub(/^[ \t]+|[ \t]+$$/, ""); gsub(/\\/, "&&"); gsub(/"/, "\\\"") } \
	    !/^--/ && !/^$$/ { text = text (text == "" ? "" : " ") $$0 } \
	    END { finish() }' $(sql) /dev/null > $@

# The commands and the lists of files: when they differ from those of the last build, and
# only then, everything is made anew.
flags := $(compile_c) $(flags_of_kernel) | $(compile_cxx) | $(link_extension) $(libraries) | $(sources) $(sql)
ifneq "$(strip $(shell [ ! -e $(OUT)/flags ] || cat $(OUT)/flags))" "$(strip $(flags))"
$(OUT)/flags: FORCE
endif
$(OUT)/flags:
	@mkdir -p $(@D)
	@echo '$(subst ','\'',$(flags))' > $@

$(OUT)/checked: .ci/check-versions $(OUT)/flags | $(build_packages) $(FAISS_FETCHED)
	@CC='$(CC)' CPPFLAGS='$(CPPFLAGS) $(includes)' \
	    .ci/check-versions '$(FAISS_VERSIONS)' $(if $(FAISS_PREFIX),$(FAISS_LIBS))
	@touch $@

# build/packages-test: what testing needs was found or installed. Looked at again when the
# list or the system changes.
$(BUILD)/packages-%: .ci/packages $(wildcard /etc/os-release)
	@mkdir -p $(@D)
	@[ '$(INSTALL_PACKAGES)' = no ] || \
	    CC='$(CC)' CXX='$(CXX)' CPPFLAGS='$(CPPFLAGS)' .ci/packages $(subst -, ,$*)
	@touch $@

.PHONY: FORCE
FORCE:

# ---- the wheel -------------------------------------------------------------------------

.PHONY: wheel extension level version

# The libraries that it needs are copied into it, under names of their own.
wheel: $(venv) | $(build_packages)
	rm -rf $(BUILD)/wheel/plain $(BUILD)/dist
	WHEEL_LEVELS='$(WHEEL_LEVELS)' $(VENV)/bin/python -m pip --disable-pip-version-check wheel \
	    --no-deps --no-build-isolation --wheel-dir $(BUILD)/wheel/plain .
	PATH="$(abspath $(VENV))/bin:$$PATH" $(VENV)/bin/auditwheel repair --strip \
	    --wheel-dir $(BUILD)/dist $(BUILD)/wheel/plain/*.whl

# What src/wheel_hook.py calls: the extension of one level, in a directory of its own, and
# the name of this build's level.
extension:
	@$(MAKE) FAISS_LEVEL=$(FAISS_LEVEL) OUT=$(BUILD)/wheel/$(FAISS_LEVEL) all

level:
	@echo $(FAISS_LEVEL)

version:
	@echo $(VERSION)

# ---- building FAISS --------------------------------------------------------------------

ifeq "$(FAISS_PREFIX)" ""

ifeq "$(FAISS_SOURCE)" ""
$(FAISS_FETCHED): | $(build_packages)
	@echo 'fetching FAISS $(FAISS_PINNED)'
	@src/faiss/build.sh fetch $(FAISS_BUILD)/source
	@touch $@
else
# Any file of that tree may have changed: ninja finds out.
$(FAISS_BUILT): FORCE
endif

# Checked first: two minutes of compiling should not end in "wrong version".
$(FAISS_BUILT): | $(build_packages) $(FAISS_FETCHED) $(OUT)/checked
	@CC='$(CC)' CXX='$(CXX)' src/faiss/build.sh compile $(faiss_source) $(faiss_out) $(FAISS_LEVEL)
	@touch -r "$$(ls -t $(FAISS_LIBS) | head -n 1)" $@

endif

# ---- tests -----------------------------------------------------------------------------

VENV := $(BUILD)/venv
venv := $(VENV)/installed
# The plugin works on two versions of Datasette, which want other versions of the rest.
VENV_DATASETTE := $(BUILD)/venv-datasette-1.0
venv_datasette := $(VENV_DATASETTE)/installed

.PHONY: programs test test-unit test-faults test-python test-asan test-tsan test-valgrind test-sqlite \
    test-wheel test-llm test-datasette

# What the tests below run, compiled on all cores. Packages come before: apt serves one at a time.
ifeq "$(SANITIZE)" "thread"
programs: $(concurrency_tests)
else ifeq "$(SANITIZE)" "valgrind"
programs: $(unit_tests)
else
programs: $(OUT)/faiss.so $(unit_tests) $(fault_tests)
endif
compile = @$(MAKE) -j$(shell nproc) programs

# Short things first; each needs the one before to have passed.
test: all $(venv)
	$(compile)
	@$(MAKE) format-check
	@$(MAKE) test-unit
	@$(MAKE) test-faults
	@$(MAKE) test-python

# Python leaks by design (what lives as long as the process is never freed), with the
# interpreter in every stack, so leaks are looked for in the C programs only.
test-asan: $(venv)
	$(compile) SANITIZE=address,undefined
	@$(MAKE) SANITIZE=address,undefined test-unit
	@$(MAKE) SANITIZE=address,undefined test-faults
	@$(MAKE) SANITIZE=address,undefined test-python

test-tsan: $(BUILD)/packages-test
	$(compile) SANITIZE=thread
	@$(MAKE) SANITIZE=thread run-concurrency

test-valgrind: $(BUILD)/packages-test $(BUILD)/packages-valgrind
	$(compile) SANITIZE=valgrind
	@$(MAKE) SANITIZE=valgrind test-unit

# Runs $1, a list of programs, each as an argument of the command $2. The sanitizers' maps
# of the address space have no room for all that a kernel may randomize.
run_each = @set -e; for program in $1; do echo "$$program"; $2 $$program; done
fixed_addresses := $(if $(SANITIZE),$(shell setarch -R true 2>/dev/null && echo setarch -R))

under = env \
    ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1 \
    LSAN_OPTIONS=suppressions=tests/lsan.supp:print_suppressions=0 \
    UBSAN_OPTIONS=print_stacktrace=1 \
    TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1:suppressions=tests/tsan.supp \
    $(fixed_addresses)
ifeq "$(SANITIZE)" "valgrind"
    under = env SQLITE_FAISS_SANITIZE=$(SANITIZE) valgrind --quiet --error-exitcode=9 --leak-check=full \
        --errors-for-leak-kinds=definite,possible --suppressions=tests/valgrind.supp
endif

test-unit: $(unit_tests)
	$(call run_each,$(unit_tests),$(under))

# Every point at which a file can fail; some of them where it takes long.
test-faults: $(fault_tests)
	$(call run_each,$(fault_tests),$(under) env FAULTS_EVERY=$(if $(SANITIZE),11,1))

.PHONY: run-concurrency
run-concurrency: $(concurrency_tests)
	$(call run_each,$(concurrency_tests),$(under) env TEST_SECONDS=$(TEST_SECONDS))

$(OUT)/libcore.a: $(core_objects)
	@rm -f $@
	$(AR) rcs $@ $^

$(OUT)/unit/%: tests/unit/%.c $(OUT)/libcore.a $(FAISS_BUILT) | $(BUILD)/packages-test
	@mkdir -p $(@D)
	$(compile_c) -DSQLITE_CORE -MT $@ -c -o $@.o $<
	$(link) -o $@ $@.o $(OUT)/libcore.a $(libraries) -lsqlite3 -lcmocka

define test_at_level
$(OUT)/unit/$1_test-$2: tests/unit/$1_test.c src/$1.c $(OUT)/libcore.a $(FAISS_BUILT) | $(BUILD)/packages-test
	@mkdir -p $$(@D)
	$$(compile_c) -O3 $$(flags_of_$2) -DSQLITE_CORE -MT $$@ -c -o $$@-$1.o src/$1.c
	$$(compile_c) -DSQLITE_CORE -MT $$@ -c -o $$@.o $$<
	$$(link) -o $$@ $$@.o $$@-$1.o $(OUT)/libcore.a $$(libraries) -lsqlite3 -lcmocka
endef
$(foreach level,$(lower_levels),$(foreach name,$(vectorized),\
    $(eval $(call test_at_level,$(name),$(level)))))

$(OUT)/concurrency/%: tests/concurrency/%.c $(OUT)/libcore.a $(FAISS_BUILT)
	@mkdir -p $(@D)
	$(compile_c) -DSQLITE_CORE -MT $@ -c -o $@.o $<
	$(link) -o $@ $@.o $(OUT)/libcore.a $(libraries) -lsqlite3

$(OUT)/faults/%: tests/faults/%.c $(OUT)/libcore.a $(FAISS_BUILT)
	@mkdir -p $(@D)
	$(compile_c) -DSQLITE_CORE -MT $@ -c -o $@.o $<
	$(link) -o $@ $@.o $(OUT)/libcore.a $(libraries) -lsqlite3

# The sanitizers' libraries must be in a process before anything that they watch, which an
# uninstrumented python (or sqlite3, or datasette) does not see to. libstdc++ is there for
# AddressSanitizer to find the function that throws. Reports go to files, since pytest
# would take them from the standard error and die with them.
ifeq "$(SANITIZE)" "address,undefined"
    reports := $(abspath $(OUT)/report)
    preload = LD_PRELOAD="$(shell for name in libasan.so libubsan.so libstdc++.so; do \
        $(CC) -print-file-name=$$name; done)" \
        ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=1:log_path=$(reports) \
        UBSAN_OPTIONS=print_stacktrace=1:log_path=$(reports) $(fixed_addresses)
    show_reports = ; status=$$?; ! grep -hs '' $(reports).* /dev/null || status=1; exit $$status
endif

# A process for each core; tests that share what they count are marked as a group and stay
# in one of them. Only failed tests leave their files in the temporary directory, which may be
# memory.
pytest = $(VENV)/bin/python -m pytest -n $(PYTEST_JOBS) --dist loadgroup \
    -o cache_dir=$(abspath $(BUILD)/pytest) -o tmp_path_retention_policy=failed

# Tests of what is around the extension: they have it do what the others do, and are for the plain build.
around := $(if $(SANITIZE),$(patsubst %,--ignore=tests/test_%.py,\
    bench build datasette demo llm package processes readme wheel))

test-python: $(OUT)/faiss.so $(venv)
	@rm -f $(OUT)/report.*
	SQLITE_FAISS=$(abspath $(OUT)/faiss) SQLITE_FAISS_SANITIZE=$(SANITIZE) \
	PYTHONPYCACHEPREFIX=$(abspath $(BUILD)/pycache) $(preload) \
	    $(pytest) $(PYTEST_FLAGS) --ignore=tests/plugin $(around) tests \
	    $(show_reports)

# Real servers of both versions, and Chromium.
test-datasette: $(OUT)/faiss.so $(venv) $(venv_datasette) | $(BUILD)/packages-browser
	SQLITE_FAISS=$(abspath $(OUT)/faiss) PYTHONPYCACHEPREFIX=$(abspath $(BUILD)/pycache) \
	DATASETTE_1_0_PYTHON=$(abspath $(VENV_DATASETTE))/bin/python \
	    $(pytest) --dist loadfile $(PYTEST_FLAGS) tests/plugin

# The oldest SQLite that will do and a new one take the place of the system's.
sqlite_libraries := $(patsubst %,$(BUILD)/sqlite-%/libsqlite3.so.0,oldest newest)
sqlite_tests := $(patsubst %,tests/test_%.py,virtual_table table_function sources metrics neighbors \
    filters lateral live_damage queries)

test-sqlite: $(OUT)/faiss.so $(venv) $(sqlite_libraries)
	@set -e; for which in oldest newest; do \
	    directory=$(abspath $(BUILD))/sqlite-$$which; \
	    version=$$(sed -n 's/^#define SQLITE_VERSION  *"\(.*\)"/\1/p' \
	        $$directory/source/libsqlite3-sys/sqlite3/sqlite3.h); \
	    export LD_LIBRARY_PATH=$$directory; \
	    echo "SQLite $$version"; \
	    $(VENV)/bin/python -c "import sqlite3; assert sqlite3.sqlite_version == '$$version'"; \
	    SQLITE_FAISS=$(abspath $(OUT)/faiss) PYTHONPYCACHEPREFIX=$(abspath $(BUILD)/pycache) \
	        $(pytest) $(PYTEST_FLAGS) $(wildcard $(sqlite_tests)); \
	done

$(BUILD)/sqlite-%/libsqlite3.so.0: tests/sqlite/build.sh tests/sqlite/%/Cargo.lock | $(BUILD)/packages-build $(BUILD)/packages-faiss
	@echo 'fetching and compiling the $* SQLite'
	@CC='$(CC)' tests/sqlite/build.sh $* $(@D)

# With the levels that this machine can run.
test-wheel: $(OUT)/faiss.so $(venv)
	@$(MAKE) WHEEL_LEVELS='$(sort generic $(cpu_level))' wheel
	SQLITE_FAISS=$(abspath $(OUT)/faiss) SQLITE_FAISS_WHEEL="$$(ls $(abspath $(BUILD))/dist/*.whl)" \
	PYTHONPYCACHEPREFIX=$(abspath $(BUILD)/pycache) \
	    $(VENV)/bin/python -m pytest -o cache_dir=$(abspath $(BUILD)/pytest) \
	    -o tmp_path_retention_policy=failed $(PYTEST_FLAGS) tests/test_wheel.py

$(venv): tests/requirements.txt | $(BUILD)/packages-test
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -r $<
	@touch $@

$(venv_datasette): tests/requirements-datasette-1.0.txt | $(BUILD)/packages-test
	$(PYTHON) -m venv $(VENV_DATASETTE)
	$(VENV_DATASETTE)/bin/python -m pip install --disable-pip-version-check -r $<
	@touch $@

# ---- format, demo, bench, install, clean -----------------------------------------------

.PHONY: format format-check demo demo-datasette example-llm bench-llm bench bench-datasette \
    install uninstall clean distclean help

# clang-format's layout differs from version to version; the virtual environment has one.
format: $(venv)
	$(VENV)/bin/clang-format -i $(formatted)

format-check: $(venv)
	@$(VENV)/bin/clang-format --dry-run --Werror $(formatted) || \
	    { echo 'the layout differs from .clang-format: run make format' >&2; exit 1; }

# Python's standard library is enough here.
demo: $(OUT)/faiss.so $(OUT)/packages.db
	@examples/packages/demo.sh $(OUT)/faiss $(OUT)/packages.db

# The same packages in Datasette, with this plugin. The address is printed; Ctrl+C ends it.
demo-datasette: $(OUT)/faiss.so $(OUT)/packages.db $(venv)
	@PYTHON=$(abspath $(VENV))/bin/python examples/datasette/demo.sh $(OUT)/faiss.so $(OUT)/packages.db

# Tools that write embeddings, in a virtual environment of their own.
venv_llm := $(BUILD)/venv-llm
llm_example = examples/llm/example.sh $(OUT)/faiss $(OUT)/packages.db $(venv_llm)/bin/python $(OUT)/llm

example-llm: $(OUT)/faiss.so $(OUT)/packages.db $(venv_llm)/installed
	@$(llm_example)

bench-llm: $(OUT)/faiss.so $(OUT)/packages.db $(venv_llm)/installed
	$(llm_example) >/dev/null
	$(venv_llm)/bin/python examples/llm/compare.py $(OUT)/faiss $(OUT)/llm/llm.db

test-llm: $(OUT)/faiss.so $(venv) $(venv_llm)/installed
	SQLITE_FAISS=$(abspath $(OUT)/faiss) SQLITE_FAISS_LLM_PYTHON=$(abspath $(venv_llm))/bin/python \
	PYTHONPYCACHEPREFIX=$(abspath $(BUILD)/pycache) \
	    $(VENV)/bin/python -m pytest -o cache_dir=$(abspath $(BUILD)/pytest) \
	    -o tmp_path_retention_policy=failed $(PYTEST_FLAGS) tests/test_llm.py

$(venv_llm)/installed: examples/llm/requirements.txt | $(BUILD)/packages-test $(BUILD)/packages-demo
	$(PYTHON) -m venv $(venv_llm)
	$(venv_llm)/bin/python -m pip install --disable-pip-version-check -r $<
	@touch $@

$(OUT)/packages.db: $(wildcard examples/packages/*.py examples/packages/*.xz examples/packages/*.json) | $(BUILD)/packages-demo
	@rm -f $@
	$(PYTHON) examples/packages/build_db.py $@

# BENCH: what to measure; tests/bench/README.md says what the words mean. BENCH_DATA: a
# directory of real vectors; made up without one.
bench_parts := build latency filtered threads
bench_programs := faiss filters live worst stored interruption approximate graphs
BENCH ?= $(bench_parts) $(bench_programs)
BENCH_SETS ?= $(if $(BENCH_DATA),data,text384:60000) text768:100000 text1536:30000 uniform384:30000
BENCH_GRAPHS ?= $(if $(BENCH_DATA),data,text384:60000)
BENCH_FLAGS ?=
BENCH_OUT ?= $(OUT)/bench/results

bench: $(OUT)/bench/search_bench $(OUT)/bench/approximate_bench $(OUT)/faiss.so $(venv)
ifneq "$(filter-out $(bench_parts) $(bench_programs),$(BENCH))" ""
	$(error BENCH: $(filter-out $(bench_parts) $(bench_programs),$(BENCH)) is none of $(bench_parts) $(bench_programs))
endif
ifneq "$(filter $(bench_parts),$(BENCH))" ""
	$(VENV)/bin/python tests/bench/suite.py --extension $(OUT)/faiss.so --work $(OUT)/bench \
	    --peers $(OUT)/bench/peers --out $(BENCH_OUT) --data "$(BENCH_DATA)" \
	    --sets $(BENCH_SETS) --parts $(filter $(bench_parts),$(BENCH)) $(BENCH_FLAGS)
endif
ifneq "$(filter faiss,$(BENCH))" ""
	$(VENV)/bin/python tests/bench/run.py --bench $< --extension $(OUT)/faiss --data "$(BENCH_DATA)"
endif
ifneq "$(filter filters,$(BENCH))" ""
	$(VENV)/bin/python tests/bench/filters.py --extension $(OUT)/faiss --work $(OUT)/bench \
	    --peers $(OUT)/bench/peers --data "$(BENCH_DATA)"
endif
ifneq "$(filter live,$(BENCH))" ""
	$(VENV)/bin/python tests/bench/live.py --extension $(OUT)/faiss --work $(OUT)/bench \
	    --data "$(BENCH_DATA)"
endif
ifneq "$(filter worst,$(BENCH))" ""
	$(VENV)/bin/python tests/bench/worst_case.py --bench $< --extension $(OUT)/faiss \
	    --data "$(BENCH_DATA)"
endif
ifneq "$(filter stored,$(BENCH))" ""
	$(VENV)/bin/python tests/bench/stored.py --extension $(OUT)/faiss --work $(OUT)/bench \
	    --data "$(BENCH_DATA)"
endif
ifneq "$(filter interruption,$(BENCH))" ""
	$(VENV)/bin/python tests/bench/interruption.py --extension $(OUT)/faiss --work $(OUT)/bench \
	    --data "$(BENCH_DATA)"
endif
ifneq "$(filter approximate,$(BENCH))" ""
	$(VENV)/bin/python tests/bench/approximate.py --bench $(OUT)/bench/approximate_bench \
	    --extension $(OUT)/faiss --data "$(BENCH_DATA)" --sets $(BENCH_GRAPHS)
endif
ifneq "$(filter graphs,$(BENCH))" ""
	$(VENV)/bin/python tests/bench/graphs.py --extension $(OUT)/faiss --work $(OUT)/bench \
	    --peers $(OUT)/bench/peers --data "$(BENCH_DATA)" --sets $(BENCH_GRAPHS) \
	    $(if $(BENCH_KEEP),--keep "$(BENCH_KEEP)")
endif

# Two Datasette servers on this machine, and eight clients.
bench-datasette: $(OUT)/faiss.so $(venv)
	$(VENV)/bin/python tests/bench/datasette_load.py --extension $(OUT)/faiss \
	    --work $(OUT)/bench/datasette --data "$(BENCH_DATA)"

# FAISS itself and SQLite, side by side: nothing of src/ is in this program.
$(OUT)/bench/%: tests/bench/%.c $(OUT)/flags $(FAISS_BUILT) | $(OUT)/checked
	@mkdir -p $(@D)
	$(compile_c) -MT $@ -c -o $@.o $<
	$(link) -o $@ $@.o $(libraries) -lsqlite3

install: $(OUT)/faiss.so
	install -d '$(DESTDIR)$(LIBDIR)'
	install -m 644 $< '$(DESTDIR)$(LIBDIR)/faiss.so'

uninstall:
	rm -f '$(DESTDIR)$(LIBDIR)/faiss.so'

# Keeps what takes minutes and seldom changes: FAISS and the virtual environment.
clean:
	rm -rf $(filter-out $(FAISS_BUILD) $(BUILD)/faiss-% $(VENV) $(VENV_DATASETTE) $(venv_llm),$(wildcard $(BUILD)/*))

distclean:
	rm -rf $(BUILD)

help:
	@echo 'target          minutes on 2 cores: the first time, in this order, and again'
	@echo '  all             3     0    build/faiss.so, with FAISS $(FAISS_PINNED) at the level $(FAISS_LEVEL)'
	@echo '  test            8     7    layout, unit tests, files that fail, Python tests'
	@echo '  programs                   what of these is compiled'
	@echo '  test-unit                  tests/unit/*_test.c'
	@echo '  test-faults                tests/faults: files that fail, a full disk'
	@echo '  test-python                tests/*.py; PYTEST_FLAGS="-k search -x"'
	@echo '  test-datasette  2     1    the plugin on Datasette 0.65 and 1.0, in Chromium'
	@echo '  test-sqlite     2     2    tests of queries with the oldest SQLite and with a new one'
	@echo '  test-wheel      3     1    a wheel for this machine, installed where nothing else is'
	@echo '  test-llm        1     1    databases that llm and openai-to-sqlite make'
	@echo '  test-asan       6     6    all three under AddressSanitizer and UndefinedBehaviorSanitizer'
	@echo '  test-tsan       5     3    tests/concurrency under ThreadSanitizer'
	@echo '  test-valgrind   2     2    unit tests under valgrind'
	@echo '  example-llm     1     1    llm embed-multi and openai-to-sqlite, searched by SQL'
	@echo '  bench-llm       1     1    llm similar against the same by SQL'
	@echo '  demo            0     0    the nearest Debian packages to five questions'
	@echo '  demo-datasette             the same packages in Datasette; prints the address'
	@echo '  bench          60    60    against FAISS itself and other extensions; BENCH, BENCH_DATA'
	@echo '  bench-datasette 4     4    requests per second beside datasette-faiss'
	@echo '  wheel           9     1    build/dist/*.whl, for the levels in WHEEL_LEVELS'
	@echo '  install                    $$(DESTDIR)$(LIBDIR)/faiss.so'
	@echo '  uninstall'
	@echo '  format, format-check       the layout of the C sources'
	@echo '  clean                      keeps FAISS and the virtual environment'
	@echo '  distclean                  keeps nothing'
	@echo
	@echo 'variable                     default'
	@echo '  PREFIX                     /usr/local'
	@echo '  LIBDIR                     $$(PREFIX)/lib/sqlite3'
	@echo '  DESTDIR                    none; put before LIBDIR'
	@echo '  FAISS_LEVEL                this CPU: $(cpu_level); or avx512, avx2, generic'
	@echo '  FAISS_PREFIX               none; where an installed FAISS with its C API is'
	@echo '  FAISS_SOURCE               none; a source tree of FAISS to build'
	@echo '  FAISS_BUILD                $(FAISS_BUILD)'
	@echo '  INSTALL_PACKAGES           yes; no: trust that everything needed is there'
	@echo '  WHEEL_LEVELS               $(WHEEL_LEVELS)'
	@echo '  WERROR                     none; 1: a warning is an error'
	@echo '  TEST_SECONDS               60; how long tests of threads go on'
	@echo '  PYTEST_JOBS                as many as cores; processes that run Python tests'
	@echo '  BENCH                      $(BENCH): what to measure'
	@echo '  BENCH_DATA                 none; a directory of real vectors'
	@echo '  BENCH_SETS                 $(BENCH_SETS)'
	@echo '  BENCH_OUT                  $(OUT)/bench/results; where tables and plots are written'
	@echo '  BENCH_GRAPHS               $(BENCH_GRAPHS)'
	@echo '  BENCH_KEEP                 none; where graphs of vectorlite are kept for the next run'
	@echo '  BENCH_FLAGS                none; as --only sqlite-vec --rounds 3'
	@echo '  SANITIZE                   none; address,undefined or thread or valgrind'

# Each object's headers.
-include $(wildcard $(OUT)/*.d $(OUT)/core/*.d $(OUT)/unit/*.d $(OUT)/concurrency/*.d \
    $(OUT)/faults/*.d $(OUT)/bench/*.d)

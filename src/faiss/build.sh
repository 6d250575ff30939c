#!/usr/bin/env bash
# Fetches and builds FAISS; called by the Makefile.
#
#   build.sh fetch DIRECTORY           the pinned sources, in DIRECTORY/faiss-sys/faiss
#   build.sh compile SOURCE OUT LEVEL  the static libraries, in OUT/faiss and OUT/c_api
#
# LEVEL is a SIMD level (avx512, avx2, generic) or "baseline": generic without
# OpenMP, for valgrind and ThreadSanitizer. The former knows no AVX-512, the
# latter does not see how libgomp's threads wait for each other and takes every
# parallel loop for a race.
#
# Two calls for one directory wait for each other: parallel makes may need the
# same FAISS.
set -euo pipefail
readonly here=$(cd "$(dirname "$0")" && pwd)

fetch() {
    local directory=$1
    mkdir -p "$(dirname "$directory")"
    exec 9>"$directory.lock"
    flock 9
    [ ! -e "$directory/faiss-sys/faiss/CMakeLists.txt" ] || rm -rf "$directory"
    # --locked: what the registry serves must have the checksum of Cargo.lock.
    cargo vendor --quiet --locked --manifest-path "$here/Cargo.toml" "$directory" >/dev/null
}

compile() {
    local source=$1 out=$2 level=$3
    local cmake_level=$level target=faiss_c_$level options=()
    case $level in
    avx512 | avx2) ;;
    generic) target=faiss_c ;;
    baseline)
        cmake_level=generic target=faiss_c
        # Told where OpenMP is, CMake does not look for the flag that turns the
        # pragmas on. The library still has the functions (omp_get_max_threads).
        options=(-DOpenMP_CXX_FLAGS=-fno-openmp
            -DOpenMP_CXX_LIB_NAMES=gomp -DOpenMP_gomp_LIBRARY=gomp)
        ;;
    esac

    # -w: FAISS's warnings are its authors' business.
    mkdir -p "$out"
    exec 9>"$out.lock"
    flock 9
    cmake -S "$source" -B "$out" -G Ninja \
        -DFAISS_OPT_LEVEL="$cmake_level" \
        -DFAISS_ENABLE_C_API=ON \
        -DFAISS_ENABLE_EXTRAS=OFF -DFAISS_ENABLE_GPU=OFF -DFAISS_ENABLE_MKL=OFF \
        -DFAISS_ENABLE_PYTHON=OFF -DBUILD_TESTING=OFF \
        -DBUILD_SHARED_LIBS=OFF -DCMAKE_BUILD_TYPE=Release \
        -DCMAKE_POSITION_INDEPENDENT_CODE=ON \
        -DCMAKE_CXX_FLAGS=-w \
        -DCMAKE_CXX_VISIBILITY_PRESET=hidden -DCMAKE_VISIBILITY_INLINES_HIDDEN=ON \
        -DBLA_VENDOR=OpenBLAS "${options[@]}" >"$out/configure.log" 2>&1 || {
        cat "$out/configure.log" >&2
        exit 1
    }
    # On a terminal ninja shows one line that moves, elsewhere a line per file.
    NINJA_STATUS="FAISS $level [%f/%t, %es] " cmake --build "$out" --target "$target" \
        --parallel "${FAISS_JOBS:-$(nproc)}"
}

"$@"

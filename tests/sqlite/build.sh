#!/usr/bin/env bash
# Builds another SQLite as a shared library; called by the Makefile.
#
#   build.sh WHICH DIRECTORY    WHICH: oldest or newest; DIRECTORY/libsqlite3.so.0
#
# A program run with LD_LIBRARY_PATH=DIRECTORY uses it instead of the system's. The
# options are those that Python's sqlite3 module and the tests rely on; unlike
# Debian's, this SQLite lets LIKE match blobs, as SQLite does by default.
set -euo pipefail
readonly here=$(cd "$(dirname "$0")" && pwd)
readonly which=$1 directory=$2

mkdir -p "$directory"
exec 9>"$directory.lock"
flock 9
rm -rf "$directory/source"
cargo vendor --quiet --locked --manifest-path "$here/$which/Cargo.toml" "$directory/source" >/dev/null
"${CC:-cc}" -O2 -w -shared -fPIC -pthread -Wl,-soname,libsqlite3.so.0 \
    -DSQLITE_ENABLE_COLUMN_METADATA -DSQLITE_ENABLE_DBSTAT_VTAB -DSQLITE_ENABLE_FTS5 \
    -DSQLITE_ENABLE_MATH_FUNCTIONS -DSQLITE_ENABLE_RTREE -DSQLITE_ENABLE_STMTVTAB \
    -o "$directory/libsqlite3.so.0" \
    "$directory/source/libsqlite3-sys/sqlite3/sqlite3.c" -lm -ldl

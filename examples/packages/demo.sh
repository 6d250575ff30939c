#!/bin/sh
# Runs demo.sql in the sqlite3 shell: demo.sh [EXTENSION [DATABASE]]
# DATABASE is made from the sample when it is missing; demo.sql wants it to be called packages.db.
set -eu
here=$(dirname "$0")
extension=${1:-$here/../../build/faiss}
database=${2:-$here/../../build/packages.db}

[ -e "$database" ] || "${PYTHON:-/usr/bin/python3}" "$here/build_db.py" "$database"

# -init: what somebody's ~/.sqliterc sets would change the output.
exec sqlite3 -batch -bail -init /dev/null -cmd ".load '$extension'" "$database" < "$here/demo.sql"

#!/bin/sh
# Serves the packages in Datasette, with the plugin of this checkout.
#
#   demo.sh FAISS.SO PACKAGES.DB
#
# PYTHON is one that has Datasette; PORT, 8001 by default, is where it listens.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
library=$(readlink -f "$1")
port=${PORT:-8001}

# The checkout as if it were installed: its name and version, and what Datasette loads.
installed=$(mktemp -d)
trap 'rm -rf "$installed"' EXIT
mkdir "$installed/sqlite_faiss-0.dist-info"
printf 'Metadata-Version: 2.1\nName: sqlite-faiss\nVersion: 0\n' \
    > "$installed/sqlite_faiss-0.dist-info/METADATA"
printf '[datasette]\nfaiss = datasette_faiss\n' \
    > "$installed/sqlite_faiss-0.dist-info/entry_points.txt"

echo "Nearest rows: http://127.0.0.1:$port/-/faiss/packages/packages?like=stockfish"
PYTHONPATH="$root/src/python:$installed" SQLITE_FAISS_LIBRARY="$library" \
    "$PYTHON" -m datasette serve "$2" --metadata "$here/metadata.yml" --port "$port"

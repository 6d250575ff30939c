#!/bin/sh
# Embeds descriptions of Debian packages with llm and with openai-to-sqlite, and searches what
# they have made: example.sh EXTENSION PACKAGES.db PYTHON OUT
# PYTHON has both tools; OUT is a directory for the databases.
set -eu
here=$(dirname "$0")
extension=$1 packages=$2 python=$3 out=$4
export LLM_USER_PATH="$out"
rm -rf "$out"
mkdir -p "$out"

sql() { # DATABASE
    sqlite3 -batch -bail -init /dev/null -cmd ".load '$extension'" "$out/$1"
}
question='manage passwords securely'
vector=$(sqlite3 "$packages" "SELECT hex(embedding) FROM questions WHERE question = '$question'")

echo "== llm embed-multi, llm similar"
sqlite3 -json "$packages" 'SELECT package AS id, description FROM packages' >"$out/packages.json"
"$python" "$here/offline.py" "$packages" llm embed-multi packages "$out/packages.json" \
    -m packages -d "$out/llm.db" --store >/dev/null
"$python" "$here/offline.py" "$packages" llm similar packages -c "$question" \
    -d "$out/llm.db" -n 3 --plain | sed '/^$/d'

echo "== the same by SQL"
sql llm.db <<SQL
.mode list
CREATE VIRTUAL TABLE embeddings_index USING faiss(main, embeddings, metric=cosine);
SELECT id, round(score, 4), content
FROM embeddings_index
WHERE embedding MATCH X'$vector'
  AND collection_id = (SELECT id FROM collections WHERE name = 'packages')
ORDER BY distance
LIMIT 3;
SQL

echo "== what llm adds is found: it writes without the extension"
"$python" "$here/offline.py" "$packages" llm embed packages my-secret-store -c "$question" \
    -m packages -d "$out/llm.db" --store
sql llm.db <<SQL
.mode list
SELECT id, round(score, 4)
FROM embeddings_index(X'$vector', 2);
SQL

echo "== openai-to-sqlite embeddings"
"$python" "$here/offline.py" "$packages" openai-to-sqlite "$out/openai.db" "$out/packages.json" \
    >/dev/null 2>&1
sql openai.db <<SQL
.mode list
SELECT id, round(distance, 4)
FROM faiss_search('main', 'embeddings', X'$vector$vector$vector$vector', 3);
SQL

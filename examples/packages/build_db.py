#!/usr/bin/env python3
"""Build the example database from the sample: the standard library is enough.

    build_db.py OUT.db [SAMPLE]

SAMPLE is the directory with the files that make_sample.py writes; default: beside this script.
Embeddings become BLOBs of little-endian float32 numbers, as the extension reads them.
"""

import json
import lzma
import os
import sqlite3
import struct
import sys
from contextlib import closing
from pathlib import Path

# The embedding is the last column, so that reading the others does not walk over it.
SCHEMA = """
CREATE TABLE packages(
  id INTEGER PRIMARY KEY,
  package TEXT NOT NULL UNIQUE,
  version TEXT NOT NULL,
  section TEXT NOT NULL,
  installed_size INTEGER NOT NULL,
  description TEXT NOT NULL,
  tags TEXT NOT NULL,
  embedding BLOB NOT NULL
);
CREATE TABLE questions(
  id INTEGER PRIMARY KEY,
  question TEXT NOT NULL UNIQUE,
  embedding BLOB NOT NULL
);
"""


def read_embeddings(path, count):
    """The `count` embeddings in a compressed file of float16 numbers, each as a float32 BLOB."""
    data = lzma.decompress(path.read_bytes())
    dimension, rest = divmod(len(data), 2 * count)
    if rest:
        raise SystemExit(f"{path}: {len(data)} bytes are not {count} rows of float16 numbers")
    half, single = struct.Struct(f"<{dimension}e"), struct.Struct(f"<{dimension}f")
    return [single.pack(*numbers) for numbers in half.iter_unpack(data)]


def build(out, sample):
    packages = [
        json.loads(line)
        for line in lzma.decompress((sample / "packages.jsonl.xz").read_bytes()).splitlines()
    ]
    questions = json.loads((sample / "questions.json").read_text(encoding="utf-8"))

    # Written under another name first: an interrupted run leaves no half-made database behind.
    unfinished = out.with_name(out.name + ".unfinished")
    unfinished.unlink(missing_ok=True)
    with closing(sqlite3.connect(unfinished)) as database:
        database.executescript(SCHEMA)
        with database:
            for package, embedding in zip(
                packages, read_embeddings(sample / "packages.f16.xz", len(packages))
            ):
                database.execute(
                    "INSERT INTO packages(package, version, section, installed_size, description,"
                    " tags, embedding) VALUES (:package, :version, :section, :installed_size,"
                    " :description, :tags, :embedding)",
                    {**package, "embedding": embedding},
                )
            database.executemany(
                "INSERT INTO questions(question, embedding) VALUES (?, ?)",
                zip(questions, read_embeddings(sample / "questions.f16.xz", len(questions))),
            )
    os.replace(unfinished, out)
    print(f"{out}: {len(packages)} packages, {len(questions)} questions")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit("usage: build_db.py OUT.db [SAMPLE]")
    build(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) == 3 else Path(__file__).parent))

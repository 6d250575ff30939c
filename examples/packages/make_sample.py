#!/usr/bin/env python3
"""Make the sample beside this script from a whole set of embedded packages (needs numpy).

    make_sample.py SOURCE [--output DIR] [--size 4000] [--nearest 10] [--seed 0]

SOURCE is a directory with
    debian-packages.jsonl.gz   one JSON object a line
    debian-packages.f16.npy    their embeddings, one row a line of the file above
    queries.json               a JSON array of questions
    queries.f32.npy            their embeddings

The sample holds the `nearest` packages of every question, so that its answers to them are those of
the whole set, and is filled up to `size` with packages drawn at random from the seed. The same
source, seed and liblzma give the same bytes.
"""

import argparse
import gzip
import json
import lzma
import random
from pathlib import Path

import numpy

# Literal context off, positions taken modulo two: half-precision numbers are pairs of a noisy and
# a predictable byte. Any xz reader understands the result; it is 5 % smaller than with the defaults.
HALF_FLOATS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 1, "pb": 1}]


def nearest_rows(embeddings, questions, count):
    """The rows that are among the `count` nearest of any question, by L2 distance in float64."""
    vectors = embeddings.astype("float64")
    squares = numpy.einsum("ij,ij->i", vectors, vectors)
    rows = set()
    for question in questions.astype("float64"):
        # |v - q|² without its constant term |q|².
        order = numpy.argsort(squares - 2 * (vectors @ question), kind="stable")
        rows.update(order[:count].tolist())
    return rows


def choose(embeddings, questions, size, nearest, seed):
    """The sorted row numbers of the sample."""
    chosen = nearest_rows(embeddings, questions, nearest)
    others = [row for row in range(len(embeddings)) if row not in chosen]
    missing = min(max(size - len(chosen), 0), len(others))
    return sorted(chosen.union(random.Random(seed).sample(others, missing)))


def write_embeddings(path, embeddings):
    half = numpy.ascontiguousarray(embeddings, dtype="<f2")
    path.write_bytes(lzma.compress(half.tobytes(), filters=HALF_FLOATS))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--size", type=int, default=4000)
    parser.add_argument("--nearest", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    source = arguments.source
    with gzip.open(source / "debian-packages.jsonl.gz", "rt", encoding="utf-8") as lines:
        packages = [json.loads(line) for line in lines]
    embeddings = numpy.load(source / "debian-packages.f16.npy")
    questions = json.loads((source / "queries.json").read_text(encoding="utf-8"))
    question_embeddings = numpy.load(source / "queries.f32.npy")
    if len(packages) != len(embeddings) or len(questions) != len(question_embeddings):
        parser.error(
            f"{source}: {len(packages)} packages have {len(embeddings)} embeddings, "
            f"{len(questions)} questions have {len(question_embeddings)}"
        )

    rows = choose(
        embeddings, question_embeddings, arguments.size, arguments.nearest, arguments.seed
    )
    lines = "".join(json.dumps(packages[row], ensure_ascii=False) + "\n" for row in rows)
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    (output / "packages.jsonl.xz").write_bytes(lzma.compress(lines.encode(), preset=9))
    write_embeddings(output / "packages.f16.xz", embeddings[rows])
    (output / "questions.json").write_text(
        json.dumps(questions, ensure_ascii=False, indent=0) + "\n", encoding="utf-8"
    )
    write_embeddings(output / "questions.f16.xz", question_embeddings)
    print(f"{len(rows)} packages and {len(questions)} questions in {output}")


if __name__ == "__main__":
    main()

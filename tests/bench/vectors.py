"""The vectors that all benchmarks search: real ones from a directory, or made up."""

import pathlib
import sys

import numpy


def add_arguments(parser):
    parser.add_argument("--data", default="", help="directory with queries.f32.npy and the vectors")
    parser.add_argument("--rows", type=int, default=63666, help="of the made-up vectors")
    parser.add_argument("--dimension", type=int, default=384, help="of the made-up vectors")


def read_or_make(options):
    """The vectors, the queries, and where they come from."""
    if options.data:
        return read_data(options.data)
    return make_data(options.rows, options.dimension)


def read_data(directory):
    """The vectors and queries of a directory with queries.f32.npy and one other .npy file."""
    directory = pathlib.Path(directory)
    queries = directory / "queries.f32.npy"
    others = [path for path in sorted(directory.glob("*.npy")) if path != queries]
    if not queries.exists() or len(others) != 1:
        sys.exit(f"{directory}: expected queries.f32.npy and one other .npy file with the vectors")
    vectors = numpy.load(others[0]).astype("<f4")
    return vectors, numpy.load(queries).astype("<f4"), others[0].name


def make_data(rows, dimension, query_count=65, clusters=256, seed=1):
    """Gaussian clusters of unit vectors; the queries are drawn with the rows and then held out."""
    random = numpy.random.default_rng(seed)
    centres = random.standard_normal((clusters, dimension), dtype="f4")
    drawn = centres[random.integers(clusters, size=rows + query_count)]
    drawn += 0.7 * random.standard_normal(drawn.shape, dtype="f4")
    drawn /= numpy.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn[:rows], drawn[rows:], f"{clusters} made-up clusters"

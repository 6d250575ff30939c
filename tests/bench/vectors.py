"""The vectors that all benchmarks search: real ones from a directory, or made up.

`python tests/bench/vectors.py DIRECTORY` prints how SPECTRUM and SPREAD below were found.
"""

import pathlib
import re
import sys

import numpy

# What text embeddings look like, fitted to 63,666 descriptions of Debian packages (MiniLM, 384
# dimensions): the variance of principal component i falls as i^-a e^(-b i / 384), by least squares
# of its logarithm over all but the last twelfth of the components. What more dimensions bring is an
# assumption: the tail grows as the square root of the dimension, so that of twice as many
# dimensions 1.4 times as many matter.
SPECTRUM, FITTED_DIMENSION = (0.20, 4.38), 384
# How near neighbours are: rows lie around ROWS / 32 centres, and a centre's rows have a share of
# the variance drawn from this range, so that the squared distance of the tenth neighbour is 0.41
# (0.26 to 0.58) of that of the median row; the packages' is 0.43 (0.26 to 0.57).
SPREAD = (0.25, 0.65)
ROWS_TO_A_CENTRE = 32
# Another decaying spectrum: so many Gaussian clusters, each this wide beside the spread of their
# centres, the variance of component i proportional to 1 / i in both.
CLUSTERS, WITHIN = 2000, 0.7
MADE_UP = re.compile(r"(text|clusters|uniform)(\d+):(\d+)")


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


def hold_out(vectors, count, seed=1):
    """The vectors without `count` random ones, and these, to be searched for."""
    chosen = numpy.random.default_rng(seed).permutation(len(vectors))
    return vectors[numpy.sort(chosen[count:])], vectors[chosen[:count]]


def named_set(name, directory, query_count):
    """The vectors, the queries and a description of `data` (those of the directory, some held
    out), `questions` (the same with its own queries), `textD:ROWS`, `clustersD:ROWS` or
    `uniformD:ROWS`."""
    if name in ("data", "questions"):
        if not directory:
            raise ValueError(f"the set {name} needs BENCH_DATA")
        vectors, queries, source = read_data(directory)
        if name == "data":
            vectors, queries = hold_out(vectors, query_count)
        return vectors, queries, source
    kind = MADE_UP.fullmatch(name)
    if not kind:
        kinds = "textD:ROWS, clustersD:ROWS or uniformD:ROWS"
        raise ValueError(f"{name}: expected data, questions, {kinds}")
    dimension, rows = int(kind[2]), int(kind[3])
    random = numpy.random.default_rng(1)
    if kind[1] == "uniform":
        drawn = random.random((rows + query_count, dimension), dtype="f4")
        return drawn[:rows], drawn[rows:], "uniform random in a cube"
    if kind[1] == "clusters":
        drawn = in_clusters(random, rows + query_count, dimension)
        source = f"{CLUSTERS:,} Gaussian clusters, variance of component i proportional to 1 / i"
        return drawn[:rows], drawn[rows:], source
    drawn = like_text(random, rows + query_count, dimension)
    return drawn[:rows], drawn[rows:], "made up with the spectrum of text embeddings"


def decay(dimension):
    """The shares of the principal components in the variance."""
    power, rate = SPECTRUM
    component = numpy.arange(1, dimension + 1)
    length = (FITTED_DIMENSION * dimension) ** 0.5
    falling = component**-power * numpy.exp(-rate * component / length)
    return falling / falling.sum()


def like_text(random, rows, dimension):
    """Clusters whose components decay as those of text embeddings do."""
    centre_count = max(1, rows // ROWS_TO_A_CENTRE)
    centres = random.standard_normal((centre_count, dimension), dtype="f4")
    within = random.uniform(*SPREAD, size=(centre_count, 1)).astype("f4")
    centres *= numpy.sqrt(1 - within)
    return around(random, centres, numpy.sqrt(within), rows, decay(dimension))


def in_clusters(random, rows, dimension):
    """Clusters that are all as wide, whose components decay as the reciprocal of their number."""
    centres = random.standard_normal((CLUSTERS, dimension), dtype="f4")
    within = numpy.full((CLUSTERS, 1), WITHIN, "f4")
    return around(random, centres, within, rows, 1 / numpy.arange(1, dimension + 1))


def around(random, centres, within, rows, variances):
    """Rows around centres, each with a deviation of its own, turned at random so that no axis is
    special, after the components were given these variances."""
    dimension = len(variances)
    square = random.standard_normal((dimension, dimension))
    rotation = numpy.linalg.qr(square)[0] * numpy.sqrt(variances).astype("f4")[:, None]
    rotation = rotation.astype("f4")
    drawn = numpy.empty((rows, dimension), "<f4")
    for begin in range(0, rows, 50000):  # in pieces: a large set fits into memory once
        part = drawn[begin : begin + 50000]
        chosen = random.integers(len(centres), size=len(part))
        noise = random.standard_normal(part.shape, dtype="f4") * within[chosen]
        noise += centres[chosen]
        part[:] = noise @ rotation
    return drawn


def nearness(vectors, queries):
    """Of the squared distance of the tenth neighbour to that of the median row: percentiles."""
    vectors, queries = vectors.astype("f8"), queries.astype("f8")
    squares = (vectors**2).sum(1)[:, None] + (queries**2).sum(1) - 2 * vectors @ queries.T
    squares.sort(0)
    return numpy.percentile(squares[9] / numpy.median(squares, 0), [10, 50, 90])


def print_fit(directory):
    vectors, _, source = read_data(directory)
    dimension = vectors.shape[1]
    spectrum = numpy.linalg.eigvalsh(numpy.cov(vectors.T.astype("f8")))[::-1]
    fitted = dimension * 11 // 12
    component = numpy.arange(1, fitted + 1)
    terms = numpy.stack([-numpy.log(component), -component / dimension, numpy.ones(fitted)], 1)
    power, rate, _ = numpy.linalg.lstsq(terms, numpy.log(spectrum[:fitted]), rcond=None)[0]
    print(f"{source}: SPECTRUM = ({power:.2f}, {rate:.2f})")
    print("components       " + "".join(f"{many:>7}" for many in (8, 32, 64, 128, 256)))
    for what, shares in (("of it", spectrum / spectrum.sum()), ("of the fit", decay(dimension))):
        sums = numpy.cumsum(shares)
        print(f"share {what:<11}" + "".join(f"{sums[m - 1]:7.3f}" for m in (8, 32, 64, 128, 256)))
    made = like_text(numpy.random.default_rng(1), len(vectors), dimension)
    for what, some in (("of it", vectors), ("of the fit", made)):
        print(f"tenth neighbour / median row, {what}:", nearness(*hold_out(some, 200)).round(2))


if __name__ == "__main__":
    print_fit(sys.argv[1])

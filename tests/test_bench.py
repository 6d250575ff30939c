"""The benchmark suite runs, on few rows, and its figures are those of real searches."""

import json
import re
import subprocess
import sys

import pytest

from database import EXTENSION, ROOT

# In one process: most look at the figures of one run.
pytestmark = pytest.mark.xdist_group("bench")

BENCH = ROOT / "tests" / "bench"
SUITE = BENCH / "suite.py"
PEERS = ROOT / "build" / "bench" / "peers"


def library():
    return EXTENSION if EXTENSION.endswith(".so") else EXTENSION + ".so"


def run_suite(directory, *arguments):
    command = [sys.executable, str(SUITE), "--extension", library(), "--work", str(directory)]
    command += ["--out", str(directory / "results"), "--rounds", "3", "--generations", "1"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=600)


def contenders_of(results, set_name):
    return json.loads((results / "results.json").read_text())["sets"][set_name]["contenders"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of this extension, FAISS and NumPy; of peers, too, where they are installed."""
    directory = tmp_path_factory.mktemp("bench")
    peers = ["--peers", str(PEERS)] if (PEERS / "installed.json").exists() else []
    done = run_suite(directory, "--sets", "text32:2000", *peers)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory / "results"


def test_every_answer_of_exact_searches_is_right(results):
    found = contenders_of(results, "text32:2000")
    for name in "FAISS Flat", "sqlite-faiss", "NumPy":
        assert found[name]["failed"] is None and found[name]["missing"] == {}
        searches = found[name]["searches"]
        assert set(searches) == {"10 100", "100 100", "10 1", "10 10"}
        for search in searches.values():
            assert search["recall"] == 1 and search["times"] >= 5
            assert 0 < search["median_ms"] <= search["p95_ms"]


def test_an_approximate_index_is_measured_as_such(results):
    found = contenders_of(results, "text32:2000")["FAISS HNSW32, efSearch=64"]
    assert not found["exact"] and found["failed"] is None
    assert 0.5 < found["searches"]["10 100"]["recall"] <= 1


def test_other_figures_are_of_the_right_size(results):
    found = contenders_of(results, "text32:2000")
    flat = found["FAISS Flat"]
    assert 2000 * 32 * 4 <= flat["build"]["bytes"] < 2000 * 32 * 4 + 1000
    for name in "FAISS Flat", "sqlite-faiss":
        assert 0 < found[name]["first_ms"] < 10000
        assert 0 <= found[name]["resident_mib"] < 100
        assert 0 < found[name]["build"]["seconds"] < 60
        assert all(rate > 10 for rate in found[name]["rates"].values())


def test_tables_show_what_was_measured(results):
    text = (results / "results.md").read_text()
    assert text.count("\n## ") >= 9
    for line in re.findall(r"^\| sqlite-faiss \|.*$", text, re.MULTILINE):
        assert "| - |" not in line
    own = contenders_of(results, "text32:2000")["sqlite-faiss"]
    median = own["searches"]["10 100"]["median_ms"]
    section = text.split("## One query, k = 10\n")[1].split("\n## ")[0]
    assert f"| sqlite-faiss | {median:.3g} (" in section


def test_one_that_fails_is_a_line_that_says_why(results, tmp_path):
    """A definition the extension refuses, and a FAISS index that cannot be made."""
    program = tmp_path / "suite_with_failures.py"
    program.write_text(
        f"import sys; sys.path.insert(0, {str(BENCH)!r})\n"
        "import contenders\n"
        "contenders.CONTENDERS += [\n"
        "    contenders.ThisExtension('refused', 'metric=l1'),\n"
        "    contenders.RawFaiss('impossible', 'PQ7'),\n"
        "]\n"
        "import suite\n"
        "if __name__ == '__main__':\n"
        "    suite.main()\n"
    )
    command = [sys.executable, str(program), "--extension", library(), "--work", str(tmp_path)]
    command += ["--out", str(tmp_path / "results"), "--rounds", "1", "--generations", "1"]
    command += ["--sets", "text32:2000", "--parts", "latency", "--only", "refused|impossible"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "results" / "results.md").read_text()
    missing = text.split("## Not run\n")[1]
    refused = "OperationalError: metric=l1: expected l2, ip or cosine"
    assert f"- refused (text32:2000): {refused}" in missing
    assert re.search(r"^- impossible \(text32:2000\): RuntimeError: ", missing, re.MULTILINE)
    assert "| FAISS Flat | " in text


def test_a_process_that_dies_or_hangs_is_told(tmp_path):
    program = tmp_path / "players.py"
    program.write_text(
        f"import os, sys, time; sys.path.insert(0, {str(BENCH)!r})\n"
        "from contenders import Contender\n"
        "from contest import Failed, Player\n"
        "class Dies(Contender):\n"
        "    def build(self, place):\n"
        "        os.abort()\n"
        "class Hangs(Contender):\n"
        "    def build(self, place):\n"
        "        time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    for contender, seconds in (Dies('dies'), 600), (Hangs('hangs'), 5):\n"
        "        player = Player(contender, None, [], one_thread=True)\n"
        "        try:\n"
        "            player.ask('build', seconds=seconds)\n"
        "        except Failed as failure:\n"
        "            print(contender, failure, failure.gone)\n"
        "        player.close()\n"
    )
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=600
    )
    assert done.stdout.splitlines() == [
        "dies build: ended with status -6 True",
        "hangs build took more than 5 s True",
    ], done.stderr


def test_graphs_are_compared_at_the_same_recall(tmp_path):
    """With vectorlite, too, where it is installed: its graphs are kept for the next run."""
    peers = ["--peers", str(PEERS)] if (PEERS / "installed.json").exists() else []
    command = [sys.executable, str(BENCH / "graphs.py"), "--extension", library(), "--work", str(tmp_path / "work")]
    command += ["--sets", "text32:2000", "--rounds", "2", "--json", str(tmp_path / "figures.json"), *peers]
    built = []
    for _ in range(2):
        done = subprocess.run([*command, "--keep", str(tmp_path)], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        graphs = json.loads((tmp_path / "figures.json").read_text())["sets"]["text32:2000"]
        assert len(graphs) == (4 if peers else 2)
        for graph in graphs.values():
            assert graph["recall"] >= 0.98 and graph["us"] > 0 and graph["build_cpu"] > 0
        built.append({name: graph["build_cpu"] for name, graph in graphs.items() if "vectorlite" in name})
    assert built[0] == built[1]


def test_plots_are_pictures(results):
    pytest.importorskip("matplotlib", reason="it comes with the peers")
    for file in "latency", "filtered-1", "threads", "build", "first", "memory", "size", "recall":
        picture = (results / f"{file}.png").read_bytes()
        assert picture.startswith(b"\x89PNG") and 3000 < len(picture) < 100000


def test_made_up_vectors_repeat_and_are_like_text():
    """Their spectrum decays, and neighbours are nearer than random rows are."""
    program = (
        f"import sys; sys.path.insert(0, {str(BENCH)!r})\n"
        "import numpy\n"
        "from vectors import named_set, nearness\n"
        "def shares(name):\n"
        "    vectors, queries, _ = named_set(name, '', 50)\n"
        "    again = named_set(name, '', 50)\n"
        "    assert (vectors == again[0]).all() and (queries == again[1]).all()\n"
        "    spectrum = numpy.linalg.eigvalsh(numpy.cov(vectors.T.astype('f8')))[::-1]\n"
        "    return spectrum[:64].sum() / spectrum.sum(), nearness(vectors, queries)[1]\n"
        "for name in 'text384:4000', 'clusters256:30000', 'uniform384:4000':\n"
        "    print(*shares(name))\n"
    )
    done = subprocess.run([sys.executable, "-"], input=program, capture_output=True, text=True)
    found = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    (text_share, text_near), clusters, (uniform_share, uniform_near) = found
    assert text_share > 0.6 and text_near < 0.55
    harmonic = [sum(1 / i for i in range(1, most + 1)) for most in (64, 256)]
    assert abs(clusters[0] - harmonic[0] / harmonic[1]) < 0.02 and clusters[1] < 0.45
    assert uniform_share < 0.35 and uniform_near > 0.7


def test_recall_counts_the_nearest_rows_that_match():
    program = (
        f"import sys; sys.path.insert(0, {str(BENCH)!r})\n"
        "import numpy\n"
        "from docs import Truth\n"
        "vectors = numpy.array([[0], [1], [1], [2], [3]], 'f4')\n"
        "buckets = numpy.array([0, 50, 50, 0, 0])\n"
        "truth = Truth(vectors, numpy.array([[0]], 'f4'), buckets, k=2)\n"
        "squares = truth.squares[0]\n"
        "assert (squares == truth.squares_from(numpy.array([0], 'f4'))).all()\n"
        "print(truth.recall([1, 2], squares), truth.recall([1, 3], squares),\n"
        "      truth.recall([1, 4], squares), truth.recall([1], squares),\n"
        "      truth.recall([1, 4], squares, 1), truth.recall([1, 2], squares, 1),\n"
        "      truth.recall([2, 3, 4], squares, k=3, leave_out=1))\n"
    )
    done = subprocess.run([sys.executable, "-"], input=program, capture_output=True, text=True)
    assert done.stdout.split() == ["1.0", "1.0", "0.5", "0.5", "1.0", "0.5", "1.0"], done.stderr

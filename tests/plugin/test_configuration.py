"""The configuration block: what is read, and what every mistake says at start-up."""

import sys

import pytest

from database import ROOT
from instances import VERSIONS, configured, make_blog, run_to_end, write_configuration

sys.path.insert(0, str(ROOT / "src" / "python"))

from datasette_faiss.configuration import (  # noqa: E402
    ConfigurationError,
    ConfiguredTable,
    read_configuration,
)

HERE = "plugins.datasette-faiss"

# A mistake in the block itself, and what the message says.
MISTAKES = [
    ({"tables": "blog"}, 'tables must be a list such as [["blog", "embeddings"]], not a text'),
    ({"tables": [["blog"]]}, "tables[0] must be a pair of names"),
    ({"tables": [["blog", 5]]}, "tables[0] must be a pair of names"),
    ({"tables": ["blog"]}, 'tables[0] must be ["DATABASE", "TABLE"] or an object'),
    ({"tables": [["a", "b"], {"database": "blog"}]}, 'tables[1] lacks "table", a name'),
    ({"tables": [{"database": 5, "table": "t"}]}, 'tables[0] lacks "database", a name'),
    ({"tabels": []}, "has no setting 'tabels' (it has tables, max_build_mb)"),
    (
        {"tables": [{"database": "a", "table": "b", "metrik": "ip"}]},
        "tables[0] has no setting 'metrik' (it has database, table, metric, id",
    ),
    (
        {"tables": [{"database": "a", "table": "b", "metric": ["l2"]}]},
        "tables[0].metric must be a text or a number, not ['l2']",
    ),
    (
        {"tables": [{"database": "a", "table": "b", "label": 5}]},
        "tables[0].label must be the name of a column, not 5",
    ),
    (
        {"tables": [{"database": "a", "table": "b", "added_later": "yes"}]},
        "tables[0].added_later must be true or false, not 'yes'",
    ),
    (
        {"tables": [["a", "b"], ["a", "B"]]},
        f"tables[1]: a.B is listed already, as {HERE}.tables[0]",
    ),
    ({"max_build_mb": "much"}, "max_build_mb must be a whole number of MB, not 'much'"),
    ({"max_build_mb": True}, "max_build_mb must be a whole number of MB, not True"),
    (["blog", "embeddings"], "must be an object with a list of tables, not a list"),
]


@pytest.mark.parametrize(("block", "message"), MISTAKES)
def test_a_mistake_is_named(block, message):
    with pytest.raises(ConfigurationError) as raised:
        read_configuration(block)
    assert str(raised.value).startswith(HERE) and message in str(raised.value)


def test_what_is_read():
    found = read_configuration(
        {
            "tables": [
                ["blog", "embeddings"],
                {
                    "database": "blog",
                    "table": "pictures",
                    "dimension": 384,
                    "strict": False,
                    "index": "IVF100,Flat",
                    "label": "title",
                },
            ],
            "max_build_mb": 100,
        }
    )
    assert found.max_build_mb == 100
    assert found.tables == (
        ConfiguredTable("blog", "embeddings", place=f"{HERE}.tables[0]"),
        ConfiguredTable(
            "blog",
            "pictures",
            {"dimension": "384", "index": "IVF100,Flat", "strict": "off"},
            "title",
            place=f"{HERE}.tables[1]",
        ),
    )
    assert read_configuration(None).tables == () == read_configuration({}).tables


# ---- what Datasette does with it ----

# What only the database can tell, and one of the above.
AT_START = {
    "no list": ({"tables": "blog"}, f"{HERE}.tables must be a list"),
    "unknown database": (
        {"tables": [["blog", "embeddings"], ["blgo", "embeddings"]]},
        f"{HERE}.tables[1]: no database blgo (this instance has blog",
    ),
    "unknown table": (
        {"tables": [["blog", "embedings"]]},
        f"{HERE}.tables[0]: no such table: blog.embedings",
    ),
    "unknown column": (
        {"tables": [{"database": "blog", "table": "embeddings", "embedding": "vector"}]},
        f"{HERE}.tables[0]: blog.embeddings has no column vector",
    ),
    "unknown metric": (
        {"tables": [{"database": "blog", "table": "embeddings", "metric": "l1"}]},
        f"{HERE}.tables[0]: metric=l1: expected l2, ip or cosine",
    ),
}


@pytest.fixture(scope="module")
def blog(tmp_path_factory):
    return make_blog(tmp_path_factory.mktemp("configuration") / "blog.db", count=20)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", AT_START)
def test_a_mistake_ends_the_start(version, blog, tmp_path, case):
    block, message = AT_START[case]
    option, file = write_configuration(tmp_path, version, {"plugins": {"datasette-faiss": block}})
    status, output = run_to_end(version, tmp_path, blog, option, file, "--get", "/")
    assert status != 0
    assert f"Error: {message}" in output and "Traceback" not in output


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("suffix", ["json", "yml"])
def test_json_and_yaml(version, blog, tmp_path, suffix):
    entry = {"database": "blog", "table": "embeddings", "metric": "cosine", "dimension": 8}
    option, file = write_configuration(tmp_path, version, configured(entry), suffix)
    status, output = run_to_end(version, tmp_path, blog, option, file, "--get", "/-/faiss.json")
    assert status == 0 and '"metric": "cosine"' in output


@pytest.mark.parametrize("version", VERSIONS)
def test_no_configuration_at_all(version, blog, tmp_path):
    status, output = run_to_end(version, tmp_path, blog, "--get", "/-/faiss.json")
    assert (status, output.strip()) == (0, '{"ok": true, "tables": []}')

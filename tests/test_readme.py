"""README.md: every command in it is run, every output compared, every name of the extension looked
for.

Each fenced block must be of a kind that is known here, so that nothing goes unchecked:

  sql      run in the sqlite3 shell. A block that begins with .load or .open starts a shell, the
           others go on in it. No complaint may be printed.
  python   run by Debian's Python.
  sh       run if an output follows it, or else each command is held against what there is.
  yaml     read as the plugin's configuration.
  dockerfile  what it installs is what there is.
  text     the output of the block before. `...` stands for anything within a line, a line of its
           own for any lines. Blanks at the end of a line do not count.

Everything runs in a directory of its own, in which build/faiss.so is the extension under test and
build/packages.db the database of the example.
"""

import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections import namedtuple
from contextlib import closing
from pathlib import Path

import pytest
import yaml

import database
from database import EXTENSION, ROOT, SHELL, column

README = (ROOT / "README.md").read_text(encoding="utf-8")
DEBIAN_PYTHON = "/usr/bin/python3"
STARTS_A_SHELL = (".load ", ".open ")
SECONDS = 600

Block = namedtuple("Block", "kind line text output")


def fenced_blocks():
    """(kind, line, text) of every fenced block."""
    found = []
    kind = None
    for number, line in enumerate(README.splitlines(), 1):
        if kind is None and line.lstrip().startswith("```"):
            kind, first, lines = line.strip()[3:], number, []
        elif kind is not None and line.strip() == "```":
            found.append((kind, first, "\n".join(lines)))
            kind = None
        elif kind is not None:
            lines.append(line)
    assert kind is None, f"the block at line {first} does not end"
    return found


def pair_blocks():
    """The blocks to run, each with the output that follows it, or None."""
    blocks = []
    for kind, line, text in fenced_blocks():
        if kind == "text":
            assert blocks and blocks[-1].output is None, f"line {line}: an output of what?"
            blocks[-1] = blocks[-1]._replace(output=text)
        else:
            blocks.append(Block(kind, line, text, None))
    return blocks


BLOCKS = pair_blocks()


def of_kind(kind):
    return [block for block in BLOCKS if block.kind == kind]


def shells():
    """Lists of blocks that one shell runs."""
    groups = []
    for block in of_kind("sql"):
        if block.text.startswith(STARTS_A_SHELL):
            groups.append([])
        assert groups, f"line {block.line}: nothing has been loaded"
        groups[-1].append(block)
    return groups


def by_line(value):
    """A test's name: the line of its (first) block."""
    block = value[0] if isinstance(value, list) else value
    return f"line {block.line}"


def pattern(output):
    """The regular expression of an output as the README shows it."""
    parts = []
    for line in output.splitlines():
        line = line.rstrip()
        if line == "...":
            parts.append(r"(?:.*\n)*?")
        else:
            parts.append(".*".join(re.escape(piece) for piece in line.split("...")) + r"\n")
    return "".join(parts)


def assert_shows(block, printed):
    """`printed` is what the README shows; nothing, where it shows nothing."""
    lines = "".join(line.rstrip() + "\n" for line in printed.splitlines())
    shown = block.output or ""
    if not re.fullmatch(pattern(shown), lines):
        pytest.fail(f"README.md:{block.line} shows\n{shown}\n\nbut the output is\n{lines}")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The directory that everything runs in."""
    place = tmp_path_factory.mktemp("readme")
    (place / "build").mkdir()
    (place / "examples").symlink_to(ROOT / "examples")
    # Datasette is that of the environment which the suite runs in.
    (place / "venv").symlink_to(Path(sys.executable).parent.parent)
    library = EXTENSION if EXTENSION.endswith(".so") else EXTENSION + ".so"
    (place / "build" / "faiss.so").symlink_to(library)
    run([DEBIAN_PYTHON, "examples/packages/build_db.py", "build/packages.db"], place)
    return place


def run(command, place, text=None):
    """The output of a command that must succeed without complaint."""
    done = subprocess.run(
        command,
        cwd=place,
        env={
            **os.environ,
            "HOME": str(place),
            # As if the package were installed, with the extension under test.
            "PYTHONPATH": str(ROOT / "src" / "python"),
            "SQLITE_FAISS_LIBRARY": str(place / "build" / "faiss.so"),
        },
        input=text,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


# The blocks


def test_every_block_is_of_a_known_kind():
    assert {block.kind for block in BLOCKS} == {"sql", "python", "sh", "yaml", "dockerfile"}
    assert all(block.text.strip() for block in BLOCKS)


@pytest.mark.parametrize("group", shells(), ids=by_line)
def test_sql(place, group):
    """All blocks of a group in one shell, with a mark printed after each."""
    mark = "-- end of a block --"
    script = "".join(f"{block.text}\n.print '{mark}'\n" for block in group)
    command = [SHELL, "-batch", "-bail", "-init", "/dev/null"]
    *printed, rest = run(command, place, script).split(mark + "\n")
    assert len(printed) == len(group) and rest == ""
    for block, output in zip(group, printed):
        assert_shows(block, output)


@pytest.mark.parametrize("group", shells(), ids=by_line)
def test_sql_does_not_depend_on_the_shells_defaults(group):
    """Newer shells have another default mode."""
    first = group[0].text
    assert ".mode list\n" in first and re.search(r"^\.headers (on|off)$", first, re.MULTILINE)


@pytest.mark.parametrize("block", of_kind("python"), ids=by_line)
def test_python(place, block):
    assert block.output is not None
    assert_shows(block, run([DEBIAN_PYTHON, "-"], place, block.text))


# Shell commands


def make_targets():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.findall(r"^\.PHONY:((?:\\\n|.)*)", makefile, re.MULTILINE)
    return {target for names in named for target in names.replace("\\\n", " ").split()}


def commands(block):
    return block.text.replace("\\\n", " ").splitlines()


# Compared by a test of its own, which has what it needs.
TESTED_ELSEWHERE = {"make example-llm": "tests/test_llm.py"}


@pytest.mark.parametrize(
    "block",
    [
        block
        for block in of_kind("sh")
        if block.output is not None and block.text not in TESTED_ELSEWHERE
    ],
    ids=by_line,
)
def test_shell_commands_with_an_output(place, block):
    if block.text == "make demo":
        # What the target runs.
        recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), re.M)
        assert "examples/packages/demo.sh $(OUT)/faiss $(OUT)/packages.db" in recipe[1]
        # A copy: the demo leaves a faiss table behind.
        shutil.copy(place / "build" / "packages.db", place / "packages.db")
        script = "examples/packages/demo.sh build/faiss packages.db"
    else:
        script = block.text
    assert_shows(block, run(["sh", "-eu", "-c", script], place))


def check_make(arguments, place):
    targets = [argument for argument in arguments if "=" not in argument]
    assert set(targets) <= make_targets()


def check_datasette(arguments, place):
    """The same command, for one request instead of forever."""
    if arguments[0] == "install":
        check_pip(arguments, place)
        return
    assert '"sqlite"' in run(["venv/bin/datasette", *arguments, "--get", "/-/versions.json"], place)


def check_virtual_environment(arguments, place):
    assert arguments[:2] == ["-m", "venv"]
    run([DEBIAN_PYTHON, "-c", "import venv, ensurepip"], place)


def check_pip(arguments, place):
    """The suite installs the same from the list that is pinned."""
    action, *packages = arguments
    if packages == ["."]:  # tests/test_package.py installs it
        assert (ROOT / "pyproject.toml").exists()
        return
    pinned = (ROOT / "tests" / "requirements.txt").read_text(encoding="utf-8")
    assert action == "install" and packages
    for package in packages:
        assert re.search(rf"^{re.escape(package)}==", pinned, re.MULTILINE)


CHECKS = {
    "make": check_make,
    DEBIAN_PYTHON: check_virtual_environment,
    "venv/bin/pip": check_pip,
    "pip": check_pip,
    "venv/bin/datasette": check_datasette,
}


@pytest.mark.parametrize(
    "block", [block for block in of_kind("sh") if block.output is None], ids=by_line
)
def test_shell_commands_without_an_output(place, block):
    for command in commands(block):
        program, *arguments = shlex.split(command)
        assert program in CHECKS, f"README.md:{block.line}: no rule for {command}"
        CHECKS[program](arguments, place)


# The plugin's configuration, and a container


@pytest.mark.parametrize("block", of_kind("yaml"), ids=by_line)
def test_configuration(block):
    sys.path.insert(0, str(ROOT / "src" / "python"))
    from datasette_faiss.configuration import PLUGIN, read_configuration

    assert block.output is None
    assert read_configuration(yaml.safe_load(block.text)["plugins"][PLUGIN]).tables


def test_every_setting_is_described():
    from datasette_faiss.configuration import INDEX_OPTIONS, OWN_OPTIONS, SETTINGS

    text = section("Datasette")
    assert set(first_cells(text, "setting")) == {*INDEX_OPTIONS, *OWN_OPTIONS}
    assert all(f"`{setting}`" in text for setting in SETTINGS)


@pytest.mark.parametrize("block", of_kind("dockerfile"), ids=by_line)
def test_a_container_takes_the_wheel_from_where_it_is_made(block):
    assert "\nCOPY build/dist/sqlite_faiss-*.whl " in block.text
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^wheel:.*\n(\t.*\n)*\t.*\$\(BUILD\)/dist", makefile, re.MULTILINE)


def test_commands_in_the_text_name_targets_and_variables():
    named = set(re.findall(r"`make ([a-z-]+)", README))
    assert named and named <= make_targets()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for variable in re.findall(r"`make [^`]*?([A-Z_]+)=", README):
        assert re.search(rf"^{variable} \?=", makefile, re.MULTILINE), variable


def test_packages_to_install_are_those_that_are_needed():
    """Every package that .ci/packages may install, and no other."""
    needed = set(re.findall(r"^ +need ([a-z0-9+.-]+) ", (ROOT / ".ci/packages").read_text(), re.M))
    needed |= {"cargo", "cargo-web"}
    table = section("Build and try").split("| for | Debian packages |")[1].split("\n\n")[0]
    second_cells = "".join(re.findall(r"^\|.*?\|(.*)\|$", table, re.MULTILINE))
    assert set(re.findall(r"`([^`]+)`", second_cells)) == needed


# Tables of the reference


def section(title):
    """The text under a heading, up to the next of the same level or a higher one."""
    found = re.search(rf"^(#+) {re.escape(title)}\n", README, re.MULTILINE)
    assert found, f"no section {title}"
    level = len(found[1])
    end = re.compile(rf"^#{{1,{level}}} ", re.MULTILINE).search(README, found.end())
    return README[found.end() : end.start() if end else len(README)]


def first_cells(text, heading):
    """The code in the first cells of the table whose first heading is given."""
    found = re.search(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert found, f"no table of each {heading}"
    cells = [re.match(r"\| (.*?) \| ", line)[1] for line in found[1].splitlines()]
    return [code for cell in cells for code in re.findall(r"`([^`]+)`", cell)]


def test_every_function_is_described(memory):
    documented = set()
    for signature in first_cells(section("Functions"), "function"):
        name, arguments = re.fullmatch(r"(\w+)\((.*)\)", signature).groups()
        documented.add((name, len(arguments.split(",")) if arguments else 0))
    registered = memory.execute(
        "SELECT name, narg FROM pragma_function_list WHERE name LIKE 'faiss%'"
    ).fetchall()
    assert documented == set(registered)


def test_every_function_of_a_host_is_described(memory):
    documented = set()
    for signature in first_cells(section("Publishing to other connections"), "on a host"):
        name, required, optional = re.fullmatch(r"(\w+)\((\w.*?)?(?: ?\[.*)?\)", signature).group(1, 2, 0)
        least = len(required.split(",")) if required else 0
        documented |= {(name, least)} | ({(name, least + 1)} if "[" in optional else set())
    of_host = "SELECT name, narg FROM pragma_function_list WHERE name LIKE 'faiss%'"
    with closing(database.host()) as host:
        assert documented == set(host.execute(of_host)) - set(memory.execute(of_host))


def test_every_module_has_a_section(memory):
    modules = column(memory, "SELECT name FROM pragma_module_list WHERE name LIKE 'faiss%'")
    assert set(modules) == {"faiss", "faiss_search", "faiss_neighbors", "faiss_project", "faiss_recall", "faiss_indexes"}
    assert "USING faiss(" in section("The virtual table")
    assert section("faiss_search as a table")
    assert section("faiss_neighbors") and section("faiss_indexes")


def columns_of(connection, table, hidden):
    return column(
        connection, "SELECT name FROM pragma_table_xinfo(?) WHERE hidden = ?", [table, hidden]
    )


def test_every_column_is_described(docs):
    docs.execute("CREATE VIRTUAL TABLE docs_ann USING faiss(main, docs, index='HNSW32')")
    own = columns_of(docs, "docs_ann", 0) + columns_of(docs, "docs_ann", 1)
    assert own.pop() == "docs_ann"
    text = section("The virtual table")
    assert first_cells(text, "column") == own
    assert "| the table's own name (hidden) |" in text

    for table in "faiss_search", "faiss_neighbors", "faiss_project", "faiss_recall", "faiss_indexes":
        title = "faiss_search as a table" if table == "faiss_search" else table
        found = columns_of(docs, table, 0) + columns_of(docs, table, 1)
        assert first_cells(section(title), "column") == found


def test_columns_of_the_source_are_described(memory):
    memory.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, title TEXT, score REAL, embedding BLOB)")
    memory.execute("CREATE VIRTUAL TABLE t_index USING faiss(main, t)")
    after_the_own = columns_of(memory, "t_index", 1)[3:]
    assert after_the_own == ["title", "source_score"]
    assert "| every other column of the source (hidden) | its value; as `source_NAME` " in section(
        "The virtual table"
    )


def test_the_largest_dimension(memory):
    memory.execute("CREATE TABLE t(embedding BLOB)")
    most = re.search(r"`dimension=` \|.*, 1 to ([\d,]+) \|", README)[1].replace(",", "")
    memory.execute(f"CREATE VIRTUAL TABLE most USING faiss(main, t, dimension={most})")
    with pytest.raises(sqlite3.Error, match=f"expected a whole number from 1 to {most}$"):
        memory.execute(f"CREATE VIRTUAL TABLE more USING faiss(main, t, dimension={most}0)")


def filter_of(connection, condition):
    """What EXPLAIN QUERY PLAN shows of a condition, beside a vector and k."""
    sql = f"SELECT * FROM t_index AS n WHERE embedding MATCH '[0]' AND {condition}"
    for line in database.plan(connection, sql):
        shown = re.search(r"VIRTUAL TABLE INDEX \d:.*?(?: filter\((.*)\))?$", line)
        if shown:
            return shown[1] or ""
    raise AssertionError(sql)


def test_where_conditions_are_answered(memory):
    """The table of conditions, by examples."""
    memory.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b TEXT, embedding BLOB)")
    memory.execute("CREATE VIRTUAL TABLE t_index USING faiss(main, t)")
    ranges = ["{} < 1", "{} <= 1", "{} > 1", "{} >= 1", "{} BETWEEN 1 AND 2"]
    others = ["{} <> 1", "{} IS NOT 1", "{} LIKE 'x%'", "{} GLOB 'x*'"]
    nulls = ["{} IS NULL", "{} IS NOT NULL"]  # SQLite itself answers those of a rowid
    equals = ["{} = 1", "{} IS 1", "{} IN (1, 2)", "{} IN (SELECT id FROM t)"]
    inside = [("a", form) for form in ranges + others + nulls + equals]
    inside += [("id", form) for form in ranges + others + nulls]
    inside += [("rowid", form) for form in ranges + others]
    inside += [(on, form) for on in ("score", "distance") for form in ranges]
    for on, form in inside:
        assert filter_of(memory, "k = 2 AND " + form.format(on)).startswith(on), (on, form)
    for on in "id", "rowid":
        for form in equals:
            assert filter_of(memory, "k = 2 AND " + form.format(on)) == ""
            assert filter_of(memory, form.format(on)).startswith(on)
    for condition in (
        "(a = 1 OR b = 2)",
        "a NOT IN (1, 2)",
        "a NOT LIKE 'x%'",
        "a < b",
        "length(a) = 1",
        "EXISTS (SELECT 1 FROM t WHERE t.a = n.a)",
    ):
        assert filter_of(memory, "k = 2 AND " + condition) == "", condition
    # SQLite passes the range that such a pattern implies, but not the test itself.
    assert "LIKE" not in filter_of(memory, "k = 2 AND a LIKE 'x%' ESCAPE '!'")


def listed_in_error(connection, sql):
    with pytest.raises(sqlite3.Error) as caught:
        connection.execute(sql)
    expected = re.search(r"\(expected (.*)\)", str(caught.value))[1]
    return re.split(r", | or ", expected)


def test_every_option_is_described(docs):
    options = listed_in_error(docs, "CREATE VIRTUAL TABLE t USING faiss(main, docs, x=y)")
    cells = first_cells(section("The virtual table"), "option")
    assert cells == [option + "=" for option in options]


def test_every_metric_is_described(docs):
    metrics = listed_in_error(docs, "SELECT faiss_distance('[1]', '[1]', 'x')")
    assert first_cells(section("The virtual table"), "metric") == metrics


def test_every_command_is_described(docs):
    known = listed_in_error(docs, "INSERT INTO docs_index(docs_index) VALUES ('x')")
    cells = first_cells(section("The virtual table"), "command")
    assert cells == [f"INSERT INTO votes_index(votes_index) VALUES ({name})" for name in known]


def test_every_plan_is_described(docs):
    shown = []
    for where in (
        "",
        "WHERE id = 1",
        "WHERE embedding MATCH '[0, 0]' AND k = 1",
        "WHERE embedding MATCH '[0, 0]'",
        "WHERE embedding MATCH '[0, 0]' AND id = 1",
    ):
        (line,) = database.plan(docs, f"SELECT * FROM docs_index {where}")
        shown.append(re.search(r"VIRTUAL TABLE INDEX (\d:\w+)", line)[1])
    assert first_cells(section("Query plans"), "plan") == shown


def test_no_name_is_made_up():
    """Every faiss_… of the text is registered."""
    names = "SELECT name FROM pragma_function_list UNION SELECT name FROM pragma_module_list"
    with closing(database.host()) as host:
        known = set(column(host, names))
    assert set(re.findall(r"\bfaiss_[a-z_]+", README)) <= known


def test_versions():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    version = re.search(r"^VERSION := (.*)$", makefile, re.MULTILINE)[1]
    pinned = re.search(r"^FAISS_PINNED := (.*)$", makefile, re.MULTILINE)[1]
    assert f"| sqlite-faiss {version} |" in README
    assert f"sources of FAISS {pinned}" in README


# The table of errors


def error_rows():
    rows = re.findall(r"^\| `(.+?)` \| `(.+)` \|$", section("Errors"), re.MULTILINE)
    assert len(rows) == section("Errors").count("\n|") - 2, "a row is not `statement` | `message`"
    return rows


def first_screen(connection):
    """The statements of the first example, without the shell's own commands."""
    (text,) = [text for kind, _, text in fenced_blocks() if text in section("One screen")][:1]
    connection.executescript(
        "\n".join(line for line in text.splitlines() if not line.startswith("."))
    )


def statements(sql):
    """The statements of a text; none of those in the table holds a semicolon itself."""
    return sql.split("; ")


@pytest.mark.parametrize("sql, message", error_rows(), ids=[sql for sql, _ in error_rows()])
def test_error(sql, message):
    with closing(database.connect()) as connection:
        first_screen(connection)
        *before, failing = statements(sql)
        for statement in before:
            connection.execute(statement)
        with pytest.raises(sqlite3.Error) as caught:
            connection.execute(failing).fetchall()
        assert str(caught.value) == message
        # All is well as soon as the fault is gone.
        if not before:
            nearest = "SELECT id FROM colours_index('[250, 140, 10]', 2)"
            assert column(connection, nearest) == [2, 3]
        connection.execute("DROP TABLE colours_index")


def test_errors_of_pyenv():
    """The message that the README quotes is this Python's, where it is met."""
    quoted = re.search(r"`('sqlite3\.Connection' object\s[^`]*)`", README)[1]
    assert " ".join(quoted.split()) == (
        "'sqlite3.Connection' object has no attribute 'enable_load_extension'"
    )


# Links


def anchor(heading):
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_links():
    outside_of_code = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    headings = {anchor(text) for text in re.findall(r"^#+ (.*)$", outside_of_code, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)\s]+)\)", outside_of_code):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("https://"):
            assert (ROOT / target).exists(), target

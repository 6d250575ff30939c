"""Random tables and random queries, each query twice: on faiss tables, and by brute force on their sources.

A query is made as text with marks like `⟨n.c1⟩` for a column of a table in its FROM clause, and
rendered twice from there. By brute force, a search `n` is the subquery

    (SELECT s.rowid AS rid, s.…, faiss_distance(s.embedding, VECTOR, METRIC) AS distance, …
     FROM docs AS s WHERE s.embedding IS NOT NULL LIMIT -1) AS n

and with k the first k of it by (distance, rid), after those terms of the query that count before
k. So all that a query says beyond that is judged by SQLite itself on an ordinary table.

What k means where a search is joined is decided in `Query.search_with_k`: once for all rows of
the other tables, or, where it is compared with one of their columns, once for each of their rows.
"""

import re
import struct
from dataclasses import dataclass, field

METRICS = ("l2", "ip", "cosine")
AFFINITIES = ("INTEGER", "REAL", "TEXT", "NUMERIC", "BLOB")
# A declared type of each affinity; SQLite must see through the words.
DECLARED = {
    "INTEGER": ("INTEGER", "INT", "BIGINT UNSIGNED"),
    "REAL": ("REAL", "DOUBLE PRECISION", "FLOAT"),
    "TEXT": ("TEXT", "VARCHAR(9)", "CHARACTER"),
    "NUMERIC": ("NUMERIC", "DECIMAL(5, 2)", "BOOLEAN"),
    "BLOB": ("BLOB", ""),
}
NAMES = (
    "lang", "year", "title", "price", "tag", "score", "distance", "k", "odd name", "select", "é",
    'quo"te', "docs_index", "source", "Upper", "a)b",
)
TEXTS = ("a", "A", "a ", "b", "B", "ab", "Ab", "", "1", "01", "1.0", "2", "é", "x_y", "%")
INTEGERS = (-2, -1, 0, 1, 2, 3, 10)
REALS = (-1.5, 0.0, 0.5, 1.0, 2.0, 2.5)
BLOBS = (b"", b"a", b"1", b"\x00\xff")
PATTERNS = ("a%", "A%", "%b", "_", "%", "", "1%", "x\\_y", "a*", "[aA]*", "?", "*", "A?", 1)


def literal(value):
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


def quote(name):
    return '"' + name.replace('"', '""') + '"'


def pack(values):
    return struct.pack(f"<{len(values)}f", *values)


def float32(value):
    """The float32 nearest to a number: what a score is."""
    return None if value is None else struct.unpack("<f", struct.pack("<f", value))[0]


def random_value(rng, affinity):
    """A value that a column of this affinity may hold; mostly one of its own kind."""
    if rng.random() < 0.1:
        return None
    if rng.random() < 0.15 or affinity == "BLOB":
        return rng.choice(rng.choice((TEXTS, INTEGERS, REALS, BLOBS)))
    if affinity == "TEXT":
        return rng.choice(TEXTS)
    return rng.choice(REALS if affinity == "REAL" or rng.random() < 0.2 else INTEGERS)


# --- tables ---------------------------------------------------------------------------------------


@dataclass
class Column:
    key: str  # in marks
    name: str
    offered: str  # by the faiss table
    affinity: str
    declared: str
    collation: str
    pool: list  # its values


@dataclass
class Table:
    """A source with its faiss table."""

    name: str
    index: str
    metric: str
    dimension: int
    exact: bool  # every score is exact, so that sums do not depend on their order
    columns: list  # those with a key c0, c1, …
    id: Column
    has_id_column: bool
    kind: str  # table, view, keyed (WITHOUT ROWID)
    schema: str
    statements: list  # that make it
    base: str  # the table that rows are written to
    names: list  # what a row of `rows` holds, as SQL; first what tells rows apart
    rows: list
    by: dict = field(default_factory=dict)

    def __post_init__(self):
        self.by = {column.key: column for column in [*self.columns, self.id]}

    @property
    def has_rowid(self):
        return self.kind == "table"

    @property
    def insert(self):
        return f"INSERT INTO {self.base}({', '.join(self.names)}) VALUES ({', '.join('?' * len(self.names))})"

    @property
    def is_small(self):
        return len(self.rows) <= 500

    @property
    def path(self):
        return f"{self.schema}.{quote(self.name)}"


def random_vector(rng, dimension, metric, exact):
    if metric == "cosine" and exact:  # of a length that is a power of two, so that cosines are exact
        length = rng.choice((1, 2))
        if dimension >= 4 and rng.random() < 0.6:
            axes = rng.sample(range(dimension), 4)
        else:
            axes = [] if rng.random() < 0.1 else [rng.randrange(dimension)]
        return [rng.choice((-length, length)) if axis in axes else 0 for axis in range(dimension)]
    return [rng.randint(-2, 2) for _ in range(dimension)]


def make_table(rng, name, dimension, count, schema="main"):
    metric = rng.choice(METRICS)
    exact = metric != "cosine" or rng.random() < 0.5
    kind = rng.choices(("table", "view", "keyed"), (12, 1, 1))[0]
    index = f"{name}_index"

    def make_column(key, column_name, offered, affinity=None):
        affinity = affinity or rng.choice(AFFINITIES)
        collation = rng.choices(("BINARY", "NOCASE", "RTRIM"), (5, 2, 1))[0]
        if affinity not in ("TEXT", "BLOB"):
            collation = "BINARY"
        pool = [random_value(rng, affinity) for _ in range(rng.choice((1, 2, 3, 5, 12)))]
        return Column(key, column_name, offered, affinity, rng.choice(DECLARED[affinity]), collation, pool)

    id_kind = rng.choices(
        ("key", "integer", "text", "untyped", "none", "option"), (6, 2, 2, 1, 2, 2)
    )[0]
    if kind == "keyed":
        id_kind = "key"
    elif kind == "view" and id_kind == "none":
        id_kind = "integer"  # a view has no rowid to be the id
    taken = {"id", "score", "distance", "k", "embedding", index}
    columns = []
    for place, column_name in enumerate(rng.sample(NAMES, rng.randint(1, 5))):
        offered = f"source_{column_name}" if column_name.lower() in taken else column_name
        columns.append(make_column(f"c{place}", column_name, offered))
    if id_kind == "option" and rng.random() < 0.5:
        columns.append(make_column(f"c{len(columns)}", "id", "source_id"))
    options = f", metric={metric}" if metric != "l2" or rng.random() < 0.5 else ""
    if kind not in ("keyed", "view") and rng.random() < 0.15:
        options += ", memory=low"
    if id_kind == "option":
        identity = make_column("id", "slug", "id", rng.choice(("TEXT", "TEXT", "INTEGER")))
        options += ", id=slug"
    else:
        affinity = {"text": "TEXT", "untyped": "BLOB"}.get(id_kind, "INTEGER")
        identity = make_column("id", "id", "id", affinity)
        if id_kind == "untyped":
            identity.declared = ""
    if id_kind == "key":
        identity.declared = "INTEGER PRIMARY KEY"
    if count > 1000:  # or joins by id would give too many rows
        identity.pool = [f"{value}" if identity.affinity == "TEXT" else value for value in range(count)]
    elif not identity.pool or id_kind not in ("key", "none"):
        identity.pool += [random_value(rng, identity.affinity) for _ in range(count // 8)]
    if id_kind in ("key", "none"):
        identity.collation = "BINARY"
        identity.pool = list(range(-2, 12))

    def definition(column):
        collate = "" if column.collation == "BINARY" else f" COLLATE {column.collation}"
        return f"{quote(column.name)} {column.declared}{collate}".rstrip()

    has_id_column = id_kind != "none"
    stored = [*([identity] if has_id_column else []), *columns]
    parts = [definition(column) for column in stored]
    parts.insert(rng.randint(0, len(parts)), "embedding BLOB")
    base = f"{name}_base" if kind == "view" else name
    statements = [
        f"CREATE TABLE {schema}.{base}({', '.join(parts)}){' WITHOUT ROWID' if kind == 'keyed' else ''}"
    ]
    for number in range(rng.choice((0, 0, 1, 2, 4))):
        chosen = rng.sample(stored, min(len(stored), rng.choice((1, 1, 2))))
        keys = ", ".join(
            quote(column.name) + rng.choice(("", "", "", " DESC", " COLLATE NOCASE")) for column in chosen
        )
        condition = ""
        if rng.random() < 0.15:
            condition = f" WHERE {quote(rng.choice(stored).name)} IS NOT NULL"
        statements.append(f"CREATE INDEX {schema}.{base}_{number} ON {base}({keys}){condition}")
    if kind == "view":
        statements.append(f"CREATE VIEW {schema}.{name} AS SELECT * FROM {base}")
    statements.append(
        f"CREATE VIRTUAL TABLE {schema}.{index} USING faiss(main, {name}{options})"
    )
    with_rowid = kind != "keyed" and id_kind != "key"
    # An INTEGER PRIMARY KEY is the first of them.
    names = [*(["rowid"] if with_rowid else []), *(quote(column.name) for column in stored), "embedding"]
    keys = rng.sample(range(-5, count * 2 + 5), count) if rng.random() < 0.5 else range(1, count + 1)
    vectors = [
        random_vector(rng, dimension, metric, exact) for _ in range(rng.choice((1, 5, 40, count + 1)))
    ]
    nulls = rng.choice((0, 0, 0.1, 0.5))
    rows = []
    for key in keys:
        row = [key]
        if id_kind not in ("key", "none"):
            row.append(rng.choice(identity.pool))
        row += [rng.choice(column.pool) for column in columns]
        row.append(None if rng.random() < nulls else pack(rng.choice(vectors)))
        rows.append(tuple(row))
    return Table(
        name, index, metric, dimension, exact, columns, identity, has_id_column, kind, schema,
        statements, f"{schema}.{base}", names, rows,
    )


# --- relations of a FROM clause ---------------------------------------------------------------------


class Source:
    """The source table itself."""

    is_search = False

    def __init__(self, alias, table):
        self.alias, self.table = alias, table
        self.columns = table.by

    def column(self, key, by_force):
        if key == "rowid" or (key == "id" and not self.table.has_id_column):
            return f"{self.alias}.rowid"
        if key == "embedding":
            return f"{self.alias}.embedding"
        return f"{self.alias}.{quote(self.columns[key].name)}"

    def text(self, by_force):
        return f"{self.table.path} AS {self.alias}"


class Search:
    """A faiss table, or the function faiss_search; without `vector` it is read in source order."""

    is_search = True

    def __init__(self, alias, table, vector=None, k=None, form="match", of=None):
        self.alias, self.table, self.vector, self.k, self.form = alias, table, vector, k, form
        self.of = of  # the relation in the same FROM clause whose embedding is the vector
        self.columns = table.by
        if form == "function":
            # Without the affinity and collation of the source's id.
            identity = table.id
            plain = Column("id", identity.name, "id", "BLOB", "", "BINARY", identity.pool)
            self.columns = {"id": plain}
        self.before_k = []  # terms that count before k
        self.per_row_of = None  # the relation for each of whose rows there are k

    @property
    def metric(self):
        return "l2" if self.form == "function" else self.table.metric

    def column(self, key, by_force):
        if key == "rowid":
            return f"{self.alias}.{'rid' if by_force else 'rowid'}"
        if self.of and by_force and key in ("distance", "score"):
            return self.measure(key, f"{self.alias}.embedding")
        if key in ("score", "distance", "embedding"):
            return f"{self.alias}.{key}"
        return f"{self.alias}.{quote(self.columns[key].offered)}"

    def inner(self, key):
        """A column inside the brute-force subquery."""
        if key == "rowid":
            return self.row_number()
        if key in ("score", "distance"):
            return self.measure(key, "s.embedding")
        if key == "embedding":
            return "s.embedding"
        if key == "id" and not self.table.has_id_column:
            column = "s.rowid"
        else:
            column = f"s.{quote(self.columns[key].name)}"
        return f"+{column} COLLATE BINARY" if self.form == "function" else column

    def row_number(self):
        return "s.rowid" if self.table.has_rowid else "s.place"

    def rows(self):
        if self.table.has_rowid:
            return f"{self.table.path} AS s"
        # Rows without a rowid are told apart by their place among those indexed.
        order = "ORDER BY id" if self.table.kind == "keyed" else ""
        return (
            f"(SELECT *, row_number() OVER ({order}) AS place FROM {self.table.path} "
            "WHERE embedding IS NOT NULL) AS s"
        )

    def measure(self, key, embedding):
        if self.vector is None:
            return "NULL"
        distance = f"faiss_distance({embedding}, {self.vector}, '{self.metric}')"
        if key == "distance":
            return f"CAST({distance} AS REAL)"
        score = {
            "l2": f"round({distance} * {distance})",
            "ip": f"-{distance}",
            "cosine": f"float32(1 - {distance})",
        }[self.metric]
        return f"CAST({score} AS REAL)"

    def terms(self):
        """The terms that name the vector and k, for the faiss query."""
        found = []
        if self.vector is not None and self.form in ("match", "equals", "reversed"):
            found.append(
                {
                    "match": f"{self.alias}.embedding MATCH {self.vector}",
                    "equals": f"{self.alias}.embedding = {self.vector}",
                    "reversed": f"{self.vector} = {self.alias}.embedding",
                }[self.form]
            )
        if self.k is not None and self.form != "function" and self.form != "called":
            found.append(f"{self.alias}.k = {self.k}")
        return found

    def forced_terms(self):
        return [f"{self.vector} IS NOT NULL"] if self.vector is not None else []

    def text(self, by_force):
        if by_force:
            return f"{self.subquery()} AS {self.alias}"
        if self.form == "function":
            arguments = f"'{self.table.schema}', '{self.table.name}', {self.vector}"
            return f"faiss_search({arguments}{'' if self.k is None else f', {self.k}'}) AS {self.alias}"
        called = ""
        if self.form == "called":
            called = f"({self.vector}{'' if self.k is None else f', {self.k}'})"
        return f"{self.table.schema}.{self.table.index}{called} AS {self.alias}"

    def subquery(self, with_k=True):
        """The rows by brute force; their score and distance too, unless the vector is another relation's."""
        names = ["id", *(key for key in self.columns if key != "id")]
        parts = [f"{self.row_number()} AS rid"]
        parts += [f"{self.inner(key)} AS {quote(self.columns[key].offered)}" for key in names]
        parts.append("s.embedding AS embedding")
        if not self.of:
            parts += [f"{self.inner('score')} AS score", f"{self.inner('distance')} AS distance"]
        where = ["s.embedding IS NOT NULL"]
        limits = with_k and self.k is not None and not self.per_row_of
        if limits:
            where += [render(term, {self.alias: self}, True, inner=True) for term in self.before_k]
        text = f"SELECT {', '.join(parts)} FROM {self.rows()} WHERE {' AND '.join(where)}"
        if not limits:
            # Keeps SQLite from merging it with the query: 3.40 gives no row of
            # `LEFT JOIN n ON n.c LIKE 'a%'` where none matches and n.c is a rowid or indexed.
            text += " LIMIT -1"
        else:
            text = f"SELECT * FROM ({text}) ORDER BY distance, rid LIMIT {self.k}"
        return f"({text})"


MARK = re.compile(r"⟨(\w+)\.(\w+)⟩")


def render(text, relations, by_force, inner=False):
    def column(match):
        relation = relations.get(match[1])
        if relation is None:
            return match[0]  # of an outer query
        return relation.inner(match[2]) if inner else relation.column(match[2], by_force)

    return MARK.sub(column, text)


# --- queries -----------------------------------------------------------------------------------------


@dataclass
class Join:
    kind: str  # "", "JOIN", ",", "CROSS JOIN", "LEFT JOIN"
    relation: object
    on: list


@dataclass
class Statement:
    """One query in both renderings."""

    faiss: str
    forced: str
    parameters: dict
    ordered: bool  # the order of rows is compared, too
    shape: str


class Generator:
    """Queries on the tables of one world."""

    def __init__(self, rng, tables):
        self.rng, self.tables = rng, tables
        self.parameters = {}

    # --- values

    def constant(self, value):
        if self.rng.random() < 0.4:
            name = f"p{len(self.parameters)}"
            self.parameters[name] = value
            return f":{name}"
        return literal(value)

    def some_value(self, column):
        rng = self.rng
        if rng.random() < 0.85:
            return rng.choice(column.pool)
        value = random_value(rng, column.affinity)
        if rng.random() < 0.3:
            value = random_value(rng, "BLOB")
        return value

    def vector_of(self, table):
        rng = self.rng
        exact = table.exact
        values = random_vector(rng, table.dimension, table.metric, exact)
        form = rng.random()
        if form < 0.6:
            name = f"v{len(self.parameters)}"
            self.parameters[name] = pack(values)
            return f":{name}"
        if form < 0.8:
            return literal(pack(values)) if rng.random() < 0.5 else literal(str([int(x) for x in values]))
        if form < 0.82:
            return "NULL"
        if form < 0.9 or not table.has_rowid or not table.rows:
            return f"(SELECT x'{pack(values).hex()}')"
        return f"(SELECT embedding FROM {table.path} WHERE rowid = {self.rng.choice(table.rows)[0]})"

    def k_of(self):
        k = self.rng.choice((1, 1, 2, 3, 5, 10, 50, 1000))
        return self.constant(k if self.rng.random() < 0.9 else float(k))

    # --- terms: (text, counts before k)

    def key_of(self, relation, with_rowid=True):
        keys = list(relation.columns)
        if with_rowid and relation.table.has_rowid and not (relation.is_search and relation.form == "function"):
            keys.append("rowid")
        return self.rng.choice(keys)

    def column_of(self, relation, key):
        if key == "rowid":
            return Column("rowid", "rowid", "rowid", "INTEGER", "", "BINARY", [*range(-2, 12)])
        return relation.columns[key]

    def term(self, relation, top, with_k=False):
        """A comparison with a column that the search can answer."""
        rng = self.rng
        key = self.key_of(relation)
        column = self.column_of(relation, key)
        mark = f"⟨{relation.alias}.{key}⟩"
        names_row = key in ("id", "rowid")
        collate = ""
        # Where the source itself answers, what the other side would convert to is lost.
        binary = column.collation == "BINARY"
        plain = relation.is_search and relation.form == "function"
        if not binary:
            # A faiss table's column has lost its collation, which only a term answered by the
            # source itself gets back.
            if not top or key == "id" or not relation.table.has_rowid or rng.random() < 0.3:
                collate = f" COLLATE {rng.choice(('NOCASE', 'RTRIM'))}"
        elif rng.random() < 0.1 and column.affinity in ("TEXT", "BLOB"):
            collate = f" COLLATE {rng.choice(('NOCASE', 'RTRIM', 'BINARY'))}"
        left = mark + collate
        op = rng.choice(
            ("=", "=", "==", "<", "<=", ">", ">=", "<>", "!=", "IS", "IS NOT", "IN", "IN", "BETWEEN",
             "LIKE", "GLOB", "IS NULL", "IS NOT NULL", "IN SELECT")
        )
        if op in ("IS NULL", "IS NOT NULL"):
            return f"{mark} {op}", True
        if op in ("LIKE", "GLOB"):
            return f"{mark} {op} {self.constant(rng.choice(PATTERNS))}", True
        if op == "BETWEEN":
            low, high = self.some_value(column), self.some_value(column)
            return f"{left} BETWEEN {self.constant(low)} AND {self.constant(high)}", True
        if op == "IN":
            count = rng.choice((0, 1, 2, 3, 3, 5, 20))
            if count == 0 and with_k:
                count = 2
            values = ", ".join(self.constant(self.some_value(column)) for _ in range(count))
            return f"{left} IN ({values})", not names_row
        if op == "IN SELECT":
            chosen = rng.choice(("v", "v", "i", "t"))
            if column.affinity == "TEXT" and (with_k or not binary):
                chosen = "t"
            elif with_k or not binary or plain:
                chosen = "v"
            bound = self.constant(rng.choice(INTEGERS))
            return f"{left} IN (SELECT {chosen} FROM vals WHERE n < {bound})", not names_row
        value = self.some_value(column)
        if value is None and op == "IS":
            value = 1  # or it would be IS NULL
        right = self.constant(value)
        if not with_k and binary and not plain and rng.random() < 0.1:
            right = rng.choice(
                ("(SELECT i FROM vals WHERE n = 2)", "(SELECT t FROM vals WHERE n = 2)", "CAST('1' AS INTEGER)",
                 "CAST(1 AS TEXT)", "1 + 1", "(SELECT max(v) FROM vals)", "'a' || ''")
            )
        counts = not (names_row and op in ("=", "==", "IS"))
        if collate and op in ("<>", "!=", "IS NOT"):
            counts = False  # SQLite offers these for a bare column only
        if rng.random() < 0.15 and not collate and op in ("=", "==", "<", "<=", ">", ">=", "<>", "!="):
            flipped = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(op, op)
            return f"{right} {flipped} {left}", counts
        return f"{left} {op} {right}", counts

    def expression(self, relation, with_k=False):
        """A condition that is left to SQLite."""
        rng = self.rng
        key = self.key_of(relation)
        column = self.column_of(relation, key)
        mark = f"⟨{relation.alias}.{key}⟩"
        value = self.constant(self.some_value(column))
        forms = [
            f"length({mark}) = {rng.choice((0, 1, 2))}",
            f"typeof({mark}) = {literal(rng.choice(('text', 'integer', 'null')))}",
            f"{mark} NOT LIKE {self.constant(rng.choice(PATTERNS))}",
            f"{mark} NOT GLOB {self.constant(rng.choice(PATTERNS))}",
            f"{mark} IS NOT TRUE",
            f"upper({mark}) = 'A'",
            f"{mark} + 0 > {rng.choice(INTEGERS)}",
            f"abs({mark}) % 2 = {rng.choice((0, 1))}" if key == "rowid" else f"hex({mark}) > '32'",
        ]
        if column.collation == "BINARY":
            forms += [
                f"+{mark} = {value}",
                f"{mark} NOT IN ({value}, {self.constant(self.some_value(column))})",
                f"{mark} NOT BETWEEN {value} AND {self.constant(self.some_value(column))}",
                f"coalesce({mark}, 1) = {value}",
                f"CASE WHEN {mark} = {value} THEN 0 ELSE {mark} IS NULL END",
                f"{mark} || '' = {value}",
                f"NOT ({mark} = {value})",
            ]
            if not with_k:
                # Its range is taken from the pattern by SQLite, and would count before k.
                forms.append(f"{mark} LIKE {self.constant('x!_y')} ESCAPE '!'")
                other = self.key_of(relation)
                if self.column_of(relation, other).collation == "BINARY":
                    forms.append(f"{mark} = ⟨{relation.alias}.{other}⟩")
                    forms.append(f"({mark}, ⟨{relation.alias}.{other}⟩) {rng.choice(('=', '<', '>='))} ({value}, {value})")
                forms.append(f"EXISTS (SELECT 1 FROM vals WHERE v = {mark})")
        if relation.is_search and relation.vector is not None:
            forms.append(f"⟨{relation.alias}.distance⟩ * 2 < {rng.choice((0, 1, 3, 5))}")
        return rng.choice(forms)

    def tree(self, relation, depth=2):
        """A condition of AND, OR and NOT."""
        rng = self.rng
        if depth == 0 or rng.random() < 0.3:
            choice = rng.random()
            if choice < 0.7:
                return self.term(relation, top=False)[0]
            if choice < 0.85 or not relation.is_search or relation.vector is None:
                return self.expression(relation)
            return self.bound(relation)
        if rng.random() < 0.15:
            return f"NOT ({self.tree(relation, depth - 1)})"
        word = rng.choice((" OR ", " OR ", " AND "))
        parts = [self.tree(relation, depth - 1) for _ in range(rng.choice((2, 2, 3)))]
        return "(" + word.join(parts) + ")"

    def sides(self, relation, with_k):
        """An OR of which the search could answer every side, perhaps as one row."""
        rng = self.rng
        rows = []
        if relation.columns["id"].collation == "BINARY":
            rows.append("id")
        if relation.table.has_rowid and not (relation.is_search and relation.form == "function"):
            rows.append("rowid")
        by_row = bool(rows) and rng.random() < 0.3
        parts = []
        for count in (2, *rng.choice(((1,), (2,), (1, 1)))):
            terms = [self.term(relation, top=False, with_k=with_k)[0] for _ in range(count)]
            if not with_k and rng.random() < 0.1:
                terms[0] = self.expression(relation)
            if by_row:
                key = rng.choice(rows)
                value = self.constant(rng.choice(self.column_of(relation, key).pool))
                terms[rng.randrange(count)] = f"⟨{relation.alias}.{key}⟩ = {value}"
            parts.append(" AND ".join(terms))
        rng.shuffle(parts)
        return f"({' OR '.join(parts)})"

    def bound(self, relation):
        """A bound on distance or score."""
        rng = self.rng
        key = rng.choice(("distance", "distance", "score"))
        op = rng.choice(("<", "<=", ">", ">="))
        value = rng.choice((-4, -1, 0, 0.25, 0.5, 1, 2, 3, 4, 5, 9, 12.5))
        if relation.metric == "l2" and key == "distance" and rng.random() < 0.4:
            value = rng.randint(0, 12) ** 0.5
        mark = f"⟨{relation.alias}.{key}⟩"
        if rng.random() < 0.2:
            return f"{mark} BETWEEN {self.constant(min(value, value - 2))} AND {self.constant(value)}"
        if rng.random() < 0.05:
            value = rng.choice((None, "1", b"a", 2**60))
        return f"{mark} {op} {self.constant(value)}"

    def conditions(self, relation, most=3):
        """Terms for a search or table, noted for k."""
        rng = self.rng
        found = []
        with_k = relation.is_search and relation.k is not None
        for _ in range(rng.choice((0, 0, 1, 1, 2, most))):
            choice = rng.random()
            if relation.is_search and relation.vector is not None and choice < 0.2:
                text, counts = self.bound(relation), True
            elif choice < 0.65:
                text, counts = self.term(relation, top=True, with_k=with_k)
                if with_k and not relation.table.has_rowid and counts and "⟨%s.id⟩" % relation.alias not in text:
                    continue  # an error, tested elsewhere
                if with_k and not relation.table.has_rowid:
                    counts = False
            elif choice < 0.7:
                text, counts = self.sides(relation, with_k), False
                marks = MARK.findall(text)
                if with_k and len(set(marks)) < len(marks):
                    continue  # SQLite draws conclusions, as `x >= 1` from `x = 1 OR (x > 1 AND y)`
            elif choice < 0.82 or with_k:
                text, counts = self.expression(relation, with_k), False
            else:
                text, counts = self.tree(relation), False
            if self.collides(text, found, relation):
                continue
            found.append(text)
            if with_k and counts:
                relation.before_k.append(text)
        return found

    def collides(self, text, others, relation):
        """Whether SQLite would draw conclusions from two terms on one column that go beyond either."""
        for key, column in relation.columns.items():
            mark = f"⟨{relation.alias}.{key}⟩"
            on_it = [term for term in (text, *others) if mark in term]
            if mark not in text or len(on_it) < 2:
                continue
            # With `x = 'a'` it puts 'a' for x elsewhere, comparing by the collation it knows of.
            if column.collation != "BINARY":
                return True
            # With `id = 3` it puts 3 for id elsewhere, and k, which does not count that, no longer
            # counts the others.
            if relation.k is not None and key in ("id", "rowid") and any(" = " in term or " == " in term for term in on_it):
                return True
            # Bounds beside a pattern are left to SQLite, since they may be its own.
            if relation.k is not None and any(" LIKE " in term or " GLOB " in term for term in on_it):
                return True
        return False

    # --- the parts of a query

    def search(self, alias, table=None, with_vector=True, with_k=None, of=None, forms=None):
        rng = self.rng
        table = table or rng.choice(self.tables)
        with_k = rng.random() < 0.4 if with_k is None else with_k
        vector = None
        if of:
            vector = of.column("embedding", False)
        elif with_vector:
            vector = self.vector_of(table)
        forms = forms or ("match", "match", "match", "equals", "reversed", "called", "function")
        form = rng.choice(forms)
        if form == "function" and (
            table.metric != "l2" or table.id.name != "id" or table.schema == "temp" or of
            or any(column.name == "id" for column in table.columns)
        ):
            form = "called"
        if not with_vector:
            form = "match"
        return Search(alias, table, vector, self.k_of() if with_k and with_vector else None, form, of)

    def outputs(self, relation, most=4):
        rng = self.rng
        keys = list(relation.columns)
        if relation.table.has_rowid and not (relation.is_search and relation.form == "function"):
            keys.append("rowid")
        if relation.is_search:
            keys += ["score", "distance", "id"]
            if rng.random() < 0.1:
                keys = ["embedding"]
        chosen = [rng.choice(keys) for _ in range(rng.randint(1, most))]
        return [f"⟨{relation.alias}.{key}⟩" for key in chosen]

    def tie(self, relation):
        return f"⟨{relation.alias}.rowid⟩"

    def order(self, relations):
        """An ORDER BY that leaves nothing open, unless rows come nearest first anyway."""
        rng = self.rng
        searches = [relation for relation in relations if relation.is_search and relation.vector is not None]
        keys = []
        if searches and rng.random() < 0.75:
            found = rng.choice(searches)
            name = rng.choice(("distance", "distance", "distance", "score"))
            nearest_last = name == "score" and found.metric != "l2"
            far = rng.random() < 0.15
            keys.append(f"⟨{found.alias}.{name}⟩{' DESC' if nearest_last != far else ''}")
            if len(relations) == 1 and not far and rng.random() < 0.5:
                return keys  # ties come in row order
        else:
            relation = rng.choice(relations)
            key = self.key_of(relation)
            column = self.column_of(relation, key)
            collate = "" if column.collation == "BINARY" else f" COLLATE {rng.choice(('NOCASE', 'RTRIM'))}"
            keys.append(
                f"⟨{relation.alias}.{key}⟩{collate}{rng.choice(('', ' DESC', ' NULLS LAST', ' DESC NULLS FIRST'))}"
            )
        ties = [self.tie(relation) for relation in relations]
        if len(ties) > 1:
            rng.shuffle(ties)
        return keys + ties

    def limit(self):
        rng = self.rng
        text = f" LIMIT {self.constant(rng.choice((0, 1, 2, 3, 5, 5, 10, 20, 100, -1)))}"
        if rng.random() < 0.4:
            text += f" OFFSET {self.constant(rng.choice((0, 1, 2, 7, -1)))}"
        return text

    def assemble(self, shape, joins, where, tail="", select=None, ordered=False, distinct=False, head=""):
        """Both renderings of one SELECT."""
        rng = self.rng
        relations = {join.relation.alias: join.relation for join in joins}
        select = select or [mark for join in joins for mark in self.outputs(join.relation, 2)]
        texts = []
        moves = rng.random() < 0.5
        for by_force in (False, True):
            parts, conditions = [], list(where)
            for join in joins:
                relation = join.relation
                terms = list(join.on)
                if relation.is_search:
                    own = relation.forced_terms() if by_force else relation.terms()
                    if by_force and relation.k is not None and relation.per_row_of:
                        own.append(self.ranked(relation, relations))
                    in_where = join.kind in ("", ",") or (join.kind != "LEFT JOIN" and moves)
                    (conditions if in_where else terms).extend(own)
                text = relation.text(by_force)
                if join.kind:
                    text = f"{join.kind} {text}" if join.kind != "," else f", {text}"
                if terms:
                    if join.kind in ("", ","):
                        conditions.extend(terms)
                    else:
                        text += f" ON {' AND '.join(terms)}"
                parts.append(text)
            sql = f"SELECT {'DISTINCT ' if distinct else ''}{', '.join(select)} FROM {' '.join(parts)}"
            if conditions:
                sql += f" WHERE {' AND '.join(conditions)}"
            texts.append(render(head + sql + tail, relations, by_force))
        return Statement(texts[0], texts[1], self.parameters, ordered, shape)

    def ranked(self, relation, relations):
        """Whether a row is one of the k for the row of the other relation."""
        other = relations[relation.per_row_of]
        distance = relation.column("distance", True)
        terms = [render(term, relations, True) for term in relation.before_k]
        terms += [f"{relation.vector} IS NOT NULL", *self.narrow.get(other.alias, [])]
        terms = [render(term, relations, True) for term in terms]
        other_row, row = other.column("rowid", True), f"{relation.alias}.rid"
        inner = f"{relation.subquery(with_k=False)} AS {relation.alias}"
        return (
            f"({other_row}, {row}) IN (SELECT other_row, own_row FROM (SELECT {other_row} AS other_row, "
            f"{row} AS own_row, row_number() OVER (PARTITION BY {other_row} ORDER BY {distance}, {row}) AS place "
            f"FROM {other.text(True)} CROSS JOIN {inner} WHERE {' AND '.join(terms)}) WHERE place <= {relation.k})"
        )

    # --- shapes

    narrow = {}

    def query(self):
        self.parameters = {}
        self.narrow = {}
        shapes = (
            (self.single, 40), (self.scan, 6), (self.grouped, 6), (self.window, 5), (self.joined, 16),
            (self.lateral, 10), (self.two_searches, 6), (self.correlated, 8), (self.nested, 6), (self.compound, 4),
        )
        make = self.rng.choices([shape for shape, _ in shapes], [weight for _, weight in shapes])[0]
        return make()

    def single(self):
        rng = self.rng
        n = self.search("n")
        where = self.conditions(n)
        distinct = rng.random() < 0.08
        select = self.outputs(n)
        if distinct:
            select = [f"⟨n.{key}⟩ COLLATE BINARY" for key in {self.key_of(n), self.key_of(n, False)}]
            return self.assemble("distinct", [Join("", n, [])], where, select=select, distinct=True)
        tail, ordered = "", False
        if rng.random() < 0.7:
            tail, ordered = f" ORDER BY {', '.join(self.order([n]))}", True
        elif not any("⟨n.id⟩" in term or "⟨n.rowid⟩" in term for term in where):
            ordered = n.vector is not None  # a search gives its rows nearest first
        if ordered and rng.random() < 0.5:
            tail += self.limit()
        if ordered and not tail.startswith(" ORDER"):
            # By brute force the order must be asked for.
            made = self.assemble("single", [Join("", n, [])], where, " ORDER BY ⟨n.distance⟩, ⟨n.rowid⟩" + tail, select, True)
            made.faiss = made.faiss.replace(" ORDER BY n.distance, n.rowid", "")
            return made
        if ordered and "," not in tail:
            made = self.assemble("single", [Join("", n, [])], where, tail, select, True)
            made.forced = re.sub(r"( ORDER BY n\.\w+(?: DESC)?)", r"\1, n.rid", made.forced)
            return made
        return self.assemble("single", [Join("", n, [])], where, tail, select, ordered)

    def scan(self):
        n = self.search("n", with_vector=False)
        where = self.conditions(n)
        tail = ""
        ordered = self.rng.random() < 0.5
        if ordered:
            tail = f" ORDER BY {', '.join(self.order([n]))}{self.limit()}"
        return self.assemble("scan", [Join("", n, [])], where, tail, ordered=ordered)

    def grouped(self):
        rng = self.rng
        n = self.search("n")
        where = self.conditions(n)
        by = f"⟨n.{self.key_of(n, False)}⟩ COLLATE BINARY"
        other = f"⟨n.{self.key_of(n, False)}⟩ COLLATE BINARY"
        totals = rng.sample(
            ["count(*)", "min(⟨n.distance⟩)", "max(⟨n.score⟩)", f"count({other})", f"min({other})",
             f"count(DISTINCT {other})", "max(⟨n.rowid⟩)"]
            + (["total(⟨n.score⟩)"] if n.table.exact else []),
            3,
        )
        if rng.random() < 0.3:
            return self.assemble("aggregate", [Join("", n, [])], where, select=totals)
        tail = f" GROUP BY {by}{rng.choice(('', ' HAVING count(*) > 1', ' ORDER BY 2'))}"
        return self.assemble("grouped", [Join("", n, [])], where, tail, [by, *totals])

    def window(self):
        rng = self.rng
        n = self.search("n")
        where = self.conditions(n)
        by = f"⟨n.{self.key_of(n, False)}⟩ COLLATE BINARY"
        order = "⟨n.distance⟩, ⟨n.rowid⟩"
        functions = rng.sample(
            [
                f"row_number() OVER (ORDER BY {order})",
                f"row_number() OVER (PARTITION BY {by} ORDER BY {order})",
                f"lag(⟨n.rowid⟩) OVER (ORDER BY {order})",
                "rank() OVER (ORDER BY ⟨n.distance⟩)",
                f"first_value(⟨n.rowid⟩) OVER (PARTITION BY {by} ORDER BY {order} DESC)",
                f"max(⟨n.distance⟩) OVER (ORDER BY {order} ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)",
                f"count(*) OVER (PARTITION BY {by})",
            ],
            2,
        )
        tail, ordered = "", rng.random() < 0.5
        if ordered:
            tail = f" ORDER BY {', '.join(self.order([n]) + [self.tie(n)])}{self.limit()}"
        return self.assemble("window", [Join("", n, [])], where, tail, ["⟨n.rowid⟩", *functions], ordered)

    def comparable(self, a, b):
        """A comparison of a column of one relation with one of the other, which SQLite and the source see alike."""
        rng = self.rng
        keys = []
        for relation in (a, b):
            keys.append([
                key for key in relation.columns
                if key != "id" and relation.columns[key].collation == "BINARY"
            ])
        pairs = [
            (x, y) for x in keys[0] for y in keys[1]
            if (a.columns[x].affinity == "TEXT") == (b.columns[y].affinity == "TEXT")
            and (a.columns[x].affinity == "BLOB") == (b.columns[y].affinity == "BLOB")
        ]
        if not pairs:
            return None
        x, y = rng.choice(pairs)
        return f"⟨{a.alias}.{x}⟩ {rng.choice(('=', '=', '=', '<', 'IS'))} ⟨{b.alias}.{y}⟩"

    def joined(self):
        """A search and the source, or another table."""
        rng = self.rng
        table = rng.choice(self.tables)
        other = table if rng.random() < 0.8 else rng.choice(self.tables)
        if not other.has_rowid:
            return self.single()
        n = self.search("n", table, forms=("match", "match", "equals", "called", "function"))
        d = Source("d", other)
        kinds = ["JOIN", "JOIN", ",", "CROSS JOIN", "LEFT JOIN"]
        kind = rng.choice(kinds)
        first_is_search = rng.random() < 0.5
        if n.form == "function" and other is not table:
            n = self.search("n", table, forms=("called",))
        plain = n.form != "function"
        on = []
        if plain and table.has_rowid and rng.random() < 0.5:
            on.append("⟨n.rowid⟩ = ⟨d.rowid⟩" if rng.random() < 0.5 else "⟨d.rowid⟩ = ⟨n.rowid⟩")
        elif n.columns["id"].collation == "BINARY" and d.columns["id"].collation == "BINARY":
            on.append(rng.choice(("⟨n.id⟩ = ⟨d.id⟩", "⟨d.id⟩ = ⟨n.id⟩")))
        elif plain and table.has_rowid:
            on.append("⟨n.rowid⟩ = ⟨d.rowid⟩")
        else:
            return self.single()
        n_terms = self.conditions(n, 2)
        d_terms = []
        if rng.random() < 0.4:
            d_terms = [self.term(d, top=True)[0]]
        if n.k is not None:
            # SQLite would conclude from `n.x = d.x AND d.x = 1` that n.x = 1.
            d_terms = [term for term in d_terms if not on or "rowid" in on[0]][:1]
        compares = None
        if plain and table.has_rowid and rng.random() < 0.3 and table.is_small:
            compares = self.comparable(n, d)
            if compares and n.k is not None:
                d_terms = []
                n_terms = [term for term in n_terms if term not in n.before_k]
                n.before_k = []
        if compares:
            on.append(compares)
            search_is_inner = kind in ("JOIN", ",") or not first_is_search
            if n.k is not None and search_is_inner:
                n.before_k.append(compares)
                n.per_row_of = "d"
        relations = [n, d] if first_is_search else [d, n]
        if kind == "LEFT JOIN":
            # Terms on the right-hand table stand in ON, those on the left one in WHERE.
            right_terms, where = (d_terms, n_terms) if first_is_search else (n_terms, d_terms)
            joins = [Join("", relations[0], []), Join(kind, relations[1], on + right_terms)]
        else:
            where = n_terms + d_terms
            joins = [Join("", relations[0], []), Join(kind, relations[1], on)]
            if rng.random() < 0.3:
                joins[1].on, where = on + where, []
        tail, ordered = "", rng.random() < 0.6
        if ordered:
            tail = f" ORDER BY {', '.join(self.order(relations))}"
            tail += self.limit() if rng.random() < 0.5 else ""
        return self.assemble("joined", joins, where, tail, ordered=ordered)

    def some_rows(self, relation, most=6):
        """A term that leaves few rows of an outer table."""
        rows = relation.table.rows
        chosen = self.rng.sample(rows, min(len(rows), self.rng.randint(1, most)))
        return f"⟨{relation.alias}.rowid⟩ IN ({', '.join(str(row[0]) for row in chosen)})"

    def lateral(self):
        """For each row of a table, the rows near to it."""
        rng = self.rng
        table = rng.choice(self.tables)
        if not table.has_rowid:
            return self.single()
        if rng.random() < 0.3:
            a = self.search("a", table, with_k=False, forms=("match", "called"))
        else:
            a = Source("a", table)
        same = [other for other in self.tables if other.dimension == table.dimension]
        n = self.search("n", rng.choice(same), of=a, forms=("match", "match", "equals", "called"))
        kind = rng.choice(("JOIN", "JOIN", ",", "CROSS JOIN", "LEFT JOIN"))
        few = self.some_rows(a)
        self.narrow = {"a": [few]}
        on = []
        if n.table.has_rowid and rng.random() < 0.5:
            compares = self.comparable(n, a)
            if compares:
                on.append(compares)
        if n.table.has_rowid and rng.random() < 0.3:
            on.append(rng.choice(("⟨n.rowid⟩ <> ⟨a.rowid⟩", "⟨n.rowid⟩ > ⟨a.rowid⟩")))
        n_terms = [] if on and n.k is not None else self.conditions(n, 2)
        if n.k is not None:
            n.per_row_of = "a"
            n.before_k += on
        elif rng.random() < 0.7:
            on.append(f"⟨n.distance⟩ {rng.choice(('<', '<='))} {self.constant(rng.choice((0, 1, 1.5, 2)))}")
        where = [few]
        if kind == "LEFT JOIN":
            joins = [Join("", a, []), Join(kind, n, on + n_terms)]
        else:
            joins = [Join("", a, []), Join(kind, n, on)]
            where += n_terms
        tail, ordered = "", rng.random() < 0.6
        if ordered:
            tail = f" ORDER BY {', '.join(self.order([a, n]))}"
            tail += self.limit() if rng.random() < 0.4 else ""
        return self.assemble("lateral", joins, where, tail, ordered=ordered)

    def two_searches(self):
        rng = self.rng
        table = rng.choice(self.tables)
        if not table.has_rowid:
            return self.single()
        a = self.search("a", table, forms=("match", "called", "equals"))
        b = self.search("b", table, forms=("match", "called", "equals"))
        kind = rng.choice(("JOIN", ",", "CROSS JOIN", "LEFT JOIN"))
        on = [rng.choice(("⟨a.rowid⟩ = ⟨b.rowid⟩", "⟨b.rowid⟩ = ⟨a.rowid⟩"))]
        if table.id.collation == "BINARY" and rng.random() < 0.5:
            on = ["⟨a.id⟩ = ⟨b.id⟩"]
        a_terms, b_terms = self.conditions(a, 2), self.conditions(b, 2)
        if rng.random() < 0.3 and a.k is None and table.is_small:
            compares = self.comparable(b, a)
            if compares:
                on.append(compares)
                if b.k is not None:
                    a_terms = []
                    b_terms = [term for term in b_terms if term not in b.before_k]
                    b.before_k = [compares]
                    b.per_row_of = "a"
        if not table.is_small:
            a_terms.append(self.some_rows(a))
        if kind == "LEFT JOIN":
            joins, where = [Join("", a, []), Join(kind, b, on + b_terms)], a_terms
        else:
            joins, where = [Join("", a, []), Join(kind, b, on)], a_terms + b_terms
        tail, ordered = "", rng.random() < 0.6
        if ordered:
            tail = f" ORDER BY {', '.join(self.order([a, b]))}"
            tail += self.limit() if rng.random() < 0.5 else ""
        return self.assemble("two searches", joins, where, tail, ordered=ordered)

    def correlated(self):
        """Scalar subqueries, EXISTS and IN over a search that depends on the outer row."""
        rng = self.rng
        table = rng.choice(self.tables)
        if not table.has_rowid:
            return self.single()
        d = Source("d", table)
        few = self.some_rows(d, 5)
        same = [other for other in self.tables if other.dimension == table.dimension]
        inside = rng.choice(same)
        n = self.search("n", inside, forms=("match", "match", "equals", "called"))
        if rng.random() < 0.6:
            n.vector = "d.embedding"
        terms = self.conditions(n, 2)
        if inside.has_rowid and rng.random() < 0.5:
            compares = self.comparable(n, d)
            if compares:
                terms.append(compares)
                if n.k is not None:
                    n.before_k.append(render(compares, {"d": d}, True))
        if inside.has_rowid and rng.random() < 0.3:
            term = "⟨n.rowid⟩ <> ⟨d.rowid⟩"
            terms.append(term)
            if n.k is not None:
                n.before_k.append(render(term, {"d": d}, True))
        form = rng.choice(("scalar", "count", "exists", "not exists", "in"))
        names_row = rng.random() < 0.5 and inside is table
        if form in ("exists", "not exists") and names_row:
            terms.append("⟨n.rowid⟩ = ⟨d.rowid⟩")
        if form == "scalar":
            key = rng.choice(("id", "rowid", "distance"))
            tail = f" ORDER BY ⟨n.distance⟩, ⟨n.rowid⟩ LIMIT 1 OFFSET {rng.choice((0, 0, 1, 3))}"
            inner = self.assemble("", [Join("", n, [])], terms, tail, [f"⟨n.{key}⟩"])
        elif form == "count":
            inner = self.assemble("", [Join("", n, [])], terms, "", [rng.choice(("count(*)", "min(⟨n.distance⟩)", "max(⟨n.rowid⟩)"))])
        elif form == "in":
            inner = self.assemble("", [Join("", n, [])], terms, "", ["⟨n.rowid⟩"])
        else:
            inner = self.assemble("", [Join("", n, [])], terms, "", ["1"])
        texts = []
        for text in (inner.faiss, inner.forced):
            if form in ("scalar", "count"):
                sql = f"SELECT ⟨d.rowid⟩, ({text}) FROM {d.text(False)} WHERE {few}"
            elif form == "in":
                sql = f"SELECT ⟨d.rowid⟩ FROM {d.text(False)} WHERE ⟨d.rowid⟩ {rng.choice(('IN',))} ({text})"
                if n.vector == "d.embedding":
                    sql += f" AND {few}"
            else:
                sql = f"SELECT ⟨d.rowid⟩ FROM {d.text(False)} WHERE {form.upper()} ({text}) AND {few}"
            texts.append(render(sql, {"d": d}, False))
        return Statement(texts[0], texts[1], self.parameters, False, "correlated " + form)

    def nested(self):
        """A search as a subquery or CTE of a query that does something else with it."""
        rng = self.rng
        n = self.search("n")
        where = self.conditions(n, 2)
        key = self.key_of(n, False)
        select = ["⟨n.rowid⟩ AS row", "⟨n.distance⟩ AS far", f"⟨n.{key}⟩ COLLATE BINARY AS other"]
        inner = self.assemble("", [Join("", n, [])], where, f" ORDER BY ⟨n.distance⟩, ⟨n.rowid⟩{self.limit()}", select)
        word = rng.choice(("", " MATERIALIZED", " NOT MATERIALIZED"))
        pairs = ["SELECT a.row, b.row FROM near AS a JOIN near AS b ON b.far < a.far"]
        outer = rng.choice((
            *(pairs if n.table.is_small else []),
            "SELECT row, far, other FROM near",
            "SELECT row, other FROM near WHERE other IS NOT NULL AND row > 0",
            "SELECT count(*), min(far), max(row) FROM near",
            "SELECT other, count(*) FROM near GROUP BY other",
            "SELECT row FROM near WHERE far = (SELECT max(far) FROM near)",
        ))
        if rng.random() < 0.3:
            outer = outer.replace("near", "({})", 1) if outer.count("near") == 1 else outer
        texts = []
        for text in (inner.faiss, inner.forced):
            texts.append(outer.format(text) if "{}" in outer else f"WITH near AS{word} ({text}) {outer}")
        return Statement(texts[0], texts[1], self.parameters, False, "nested")

    def compound(self):
        rng = self.rng
        word = rng.choice(("UNION", "UNION ALL", "EXCEPT", "INTERSECT"))
        sides = []
        for alias in ("n", "m"):
            search = self.search(alias)
            key = rng.choice(("rowid", "distance"))
            sides.append(self.assemble("", [Join("", search, [])], self.conditions(search, 2), "", [f"⟨{alias}.rowid⟩", f"⟨{alias}.{key}⟩"]))
        tail = " ORDER BY 1, 2" if rng.random() < 0.5 else ""
        return Statement(
            f"{sides[0].faiss} {word} {sides[1].faiss}{tail}",
            f"{sides[0].forced} {word} {sides[1].forced}{tail}",
            self.parameters, bool(tail), "compound",
        )

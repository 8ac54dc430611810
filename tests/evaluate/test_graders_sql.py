import hashlib
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from evaluate.making import row
from tunewise.contracts.graders import SqlExecution
from tunewise.errors import EvaluationError
from tunewise.evaluate.graders import Graded, grade
from tunewise.evaluate.graders.sql import is_ordered, normalise

STATES = [("ohio", 11.8), ("utah", 3.3), ("iowa", 3.2), ("ohio", 11.8)]
ALL = "SELECT name FROM state"
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
FLOOD = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "states #1?.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE state (name TEXT, population REAL)")
        connection.executemany("INSERT INTO state VALUES (?, ?)", STATES)
        connection.commit()
    return path


def run(database: Path, answer: str, reference: str = ALL, *, seconds: float = 2.0) -> Graded:
    return grade(SqlExecution(name="g", database=database, seconds=seconds), [row(reference)], [answer])


ANSWERS = [
    (ALL, ALL, 1),
    ("select name as n from state;", ALL, 1),
    (ALL, "SELECT name FROM state ORDER BY population DESC", 0),
    ("SELECT name FROM state ORDER BY name", "SELECT name FROM state ORDER BY population DESC", 0),
    ("SELECT name FROM state ORDER BY population DESC, name", "SELECT name FROM state ORDER BY population DESC", 1),
    ("SELECT DISTINCT name FROM state", ALL, 0),
    ("SELECT name, name FROM state", ALL, 0),
    ("SELECT name FROM state UNION ALL SELECT 'x'", ALL, 0),
    ("SELECT 2", "SELECT 2.0", 1),
    ("SELECT 0.1 + 0.2", "SELECT 0.3", 1),
    ("SELECT 0.31", "SELECT 0.3", 0),
    ("SELECT NULL", "SELECT NULL", 1),
    ("SELECT 1 WHERE 0", "SELECT 2 WHERE 0", 1),
    ("SELECT CAST(x'ff' AS TEXT)", "SELECT CAST(x'ff' AS TEXT)", 1),
]


@pytest.mark.parametrize(("answer", "reference", "score"), ANSWERS)
def test_an_answer_is_right_when_it_gives_the_references_rows(
    database: Path, answer: str, reference: str, score: int
) -> None:
    result = run(database, answer, reference)
    assert result.rows == [score]
    assert result.extras["valid_sql"] == 1


INVALID = [
    "",
    "-- nothing",
    "I do not know.",
    "SELECT nothing FROM state",
    "SELECT 1; SELECT 2",
    "SELECT ?",
    "SELECT '\0'",
    "SELECT '\ud800'",
    "SELECT 1" + " + 1" * 5000,
    "```sql\nSELECT 1\n```",
    "SELECT zeroblob(2000000000)",
    "SELECT load_extension('x')",
]
WRITING = [
    "DELETE FROM state",
    "INSERT INTO state VALUES ('x', 1)",
    "UPDATE state SET name = 'x' RETURNING name",
    "DROP TABLE state",
    "CREATE TABLE x (y)",
    "CREATE TEMP TABLE x AS SELECT 1",
    "ATTACH DATABASE '{directory}/new.sqlite' AS other",
    "VACUUM INTO '{directory}/new.sqlite'",
    "PRAGMA query_only = OFF",
    "PRAGMA user_version = 3",
    "PRAGMA table_info(state)",
    "BEGIN EXCLUSIVE",
    "WITH x AS (SELECT 1) DELETE FROM state",
]


@pytest.mark.parametrize("answer", INVALID)
def test_an_answer_that_does_not_run_scores_0(database: Path, answer: str) -> None:
    result = run(database, answer)
    assert (result.rows, result.extras["valid_sql"]) == ([0], 0)


@pytest.mark.parametrize("answer", WRITING)
def test_an_answer_can_only_read(database: Path, answer: str) -> None:
    before = hashlib.sha256(database.read_bytes()).digest()
    result = run(database, answer.format(directory=database.parent))
    assert (result.rows, result.extras["valid_sql"]) == ([0], 0)
    assert hashlib.sha256(database.read_bytes()).digest() == before
    assert [path.name for path in database.parent.iterdir()] == [database.name]


@pytest.mark.parametrize("answer", [ENDLESS, FLOOD + " ORDER BY x"])
def test_an_endless_answer_is_stopped(database: Path, answer: str) -> None:
    started = time.thread_time()
    result = run(database, answer, seconds=0.2)
    assert (result.rows, result.extras["valid_sql"]) == ([0], 0)
    assert time.thread_time() - started < 2


def test_an_answer_with_endless_rows_is_read_one_row_too_far(database: Path) -> None:
    result = run(database, FLOOD, seconds=60)
    assert (result.rows, result.extras["valid_sql"]) == ([0], 1)


def test_one_answer_out_of_time_does_not_stop_the_next(database: Path) -> None:
    grader = SqlExecution(name="g", database=database, seconds=0.1)
    assert grade(grader, [row(ALL), row(ALL)], [ENDLESS, ALL]).rows == [0, 1]


@pytest.mark.parametrize("reference", ["SELECT nothing FROM state", "DELETE FROM state", ENDLESS, ""])
def test_a_reference_that_does_not_run_is_the_datas_fault(database: Path, reference: str) -> None:
    with pytest.raises(EvaluationError, match="the reference of test row 1 fails"):
        run(database, ALL, reference, seconds=0.1)


def test_a_missing_database_is_named_and_not_created(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"nowhere\.sqlite"):
        run(tmp_path / "nowhere.sqlite", ALL)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "text.sqlite"
    path.write_text("not a database" * 100)
    with pytest.raises(EvaluationError, match="is no SQLite database"):
        run(path, ALL)


ORDERED = [
    ("SELECT a FROM t ORDER BY a", True),
    ("select a from t order\n/* x */ by a limit 1", True),
    ("SELECT a FROM (SELECT a FROM t ORDER BY a)", False),
    ("SELECT a FROM t WHERE b = 'order by'", False),
    ("SELECT a FROM t -- order by a", False),
    ('SELECT "order by" FROM t', False),
    ("SELECT row_number() OVER (ORDER BY a) FROM t", False),
    ("SELECT a FROM t WHERE a = (SELECT 1) ORDER BY a", True),
]


@pytest.mark.parametrize(("sql", "ordered"), ORDERED)
def test_only_a_top_level_order_by_fixes_the_order(sql: str, ordered: bool) -> None:
    assert is_ordered(sql) is ordered


def test_normalising_keeps_what_is_quoted() -> None:
    assert normalise("SELECT  A FROM t\nWHERE b='New  York' ; ") == normalise("select a from T where B = 'New  York'")
    assert normalise("select 'a'") != normalise("select 'A'")

"""How a store of an older version is brought to this one: functions whose names are recorded in the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb

from core.errors import StoreError

SCHEMA = Path(__file__).with_name("schema.sql").read_text()


def measuring_runs(connection: duckdb.DuckDBPyConnection) -> None:
    """Change nothing: every store has had these tables from the beginning."""


def training_runs(connection: duckdb.DuckDBPyConnection) -> None:
    """Add what a run trained on a reconstruction was made from, and the study that submitted it."""
    connection.execute("ALTER TABLE runs ADD COLUMN dataset_source VARCHAR")
    connection.execute("ALTER TABLE runs ADD COLUMN study VARCHAR")


def claims(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the claims by which workers write."""
    connection.execute("ALTER TABLE runs ADD COLUMN claim BIGINT DEFAULT 0")
    connection.execute("ALTER TABLE images ADD COLUMN claim BIGINT DEFAULT 0")


def migrations_by_name(connection: duckdb.DuckDBPyConnection) -> None:
    """Remove the table that held the version's number; a view of the same name counts the migrations instead."""
    connection.execute("DROP TABLE schema_version")


def verifications(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the checksum by which a compared image is known again when it is checked."""
    connection.execute("ALTER TABLE measurements ADD COLUMN decoded_crc32 BIGINT")


def predictions(connection: duckdb.DuckDBPyConnection) -> None:
    """Add to steps what a paired comparison with the unpruned network gives; the table of predictions is new."""
    for name in ("difference", "difference_low", "difference_high"):
        connection.execute(f"ALTER TABLE IF EXISTS steps ADD COLUMN {name} DOUBLE")
    for name in ("accepted_by_points", "noninferior"):
        connection.execute(f"ALTER TABLE IF EXISTS steps ADD COLUMN {name} BOOLEAN")


def given_splits(connection: duckdb.DuckDBPyConnection) -> None:
    """Add to images the set that a table or folder gives them."""
    connection.execute("ALTER TABLE IF EXISTS dataset_images ADD COLUMN split VARCHAR")


def signs_of_learning(connection: duckdb.DuckDBPyConnection) -> None:
    """Add to epochs the signs of a lost network, and to steps the seed, the lost trainings and the precision."""
    for name, kind in (
        ("spread", "DOUBLE"),
        ("dead_units", "INTEGER"),
        ("hidden_units", "INTEGER"),
        ("gradient_norm", "DOUBLE"),
        ("learning_rate", "DOUBLE"),
    ):
        connection.execute(f"ALTER TABLE IF EXISTS epochs ADD COLUMN {name} {kind}")
    for name, kind in (("seed", "BIGINT"), ("lost", "BIGINT"), ('"precision"', "VARCHAR")):
        connection.execute(f"ALTER TABLE IF EXISTS steps ADD COLUMN {name} {kind}")


def imported_runs(connection: duckdb.DuckDBPyConnection) -> None:
    """Add to runs where an imported one comes from; the tables of their logs and data sets are new."""
    for name, kind in (("origin_host", "VARCHAR"), ("origin_store", "VARCHAR"), ("imported_at", "TIMESTAMPTZ")):
        connection.execute(f"ALTER TABLE runs ADD COLUMN {name} {kind}")


def conversions(connection: duckdb.DuckDBPyConnection) -> None:
    """Change nothing: the tables of converted networks and their latencies are new."""


def svd_dense(connection: duckdb.DuckDBPyConnection) -> None:
    """Change nothing: the table of networks with dense layers of low rank is new."""


def diagnoses(connection: duckdb.DuckDBPyConnection) -> None:
    """Change nothing: the table of predictions of stored images is new."""


def fine_tuning(connection: duckdb.DuckDBPyConnection) -> None:
    """Add to networks with dense layers of low rank how long they were trained, and their latency."""
    table = "ALTER TABLE IF EXISTS svd_dense ADD COLUMN"
    connection.execute(f"{table} fine_tune_epochs INTEGER DEFAULT 0")
    for name in ("latency", "latency_itself"):
        connection.execute(f"{table} {name} DOUBLE")


# In the order in which they are applied. Never change one that has been released: append the next one.
MIGRATIONS: dict[str, Callable[[duckdb.DuckDBPyConnection], None]] = {
    migration.__name__: migration
    for migration in (
        measuring_runs,
        training_runs,
        claims,
        migrations_by_name,
        verifications,
        predictions,
        given_splits,
        signs_of_learning,
        imported_runs,
        conversions,
        svd_dense,
        diagnoses,
        fine_tuning,
    )
}
VERSION = len(MIGRATIONS)  # of a store to which all of them have been applied


def applied(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Return the names of the migrations that a store has, in order; none for a new file."""
    try:
        return [str(name) for (name,) in connection.execute("SELECT name FROM migrations ORDER BY rowid").fetchall()]
    except duckdb.CatalogException:
        pass
    try:
        version = int(connection.execute("SELECT version FROM schema_version").fetchall()[0][0])
    except duckdb.CatalogException:
        return []
    # An early release misread a heading of its schema: its stores say 1 and have everything of 2.
    trains = connection.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'studies'").fetchall()[0][0]
    return list(MIGRATIONS)[: max(version, 2) if trains else version]


def migrate(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the tables of a new store, or bring an older one to this version. StoreError for a newer one."""
    found = applied(connection)
    if not set(found) <= set(MIGRATIONS):
        raise StoreError(f"expected a store of version {len(MIGRATIONS)} or older; this one has version {len(found)}")
    if len(found) == len(MIGRATIONS):
        return
    connection.begin()
    for name, migration in MIGRATIONS.items():
        if found and name not in found:
            migration(connection)
    connection.execute(SCHEMA)
    connection.execute(
        "INSERT INTO migrations SELECT name, now() FROM (SELECT unnest(?::VARCHAR[]) AS name) AS all_names "
        "ANTI JOIN migrations USING (name)",
        [list(MIGRATIONS)],
    )
    connection.commit()

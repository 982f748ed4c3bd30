"""What a metric's data frame is, by engine: how a session starts, and how frames are made of Parquet files."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from fqlstream.code_metrics.inside import calc
from fqlstream.code_metrics.inside.collected import give_columns

#: Off by default, and left so where it can be: then a metric may write a column's name as Spark lets it.
_CASE: Final = "spark.sql.caseSensitive"
_SCRATCH: Final = tempfile.gettempdir()  # the sandbox's own, sized and nobody else's


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a job: `frame(where)` gives those where a boolean column is true, without the columns named `hidden`."""

    columns: tuple[str, ...]
    frame: Callable[[str | None], Any]


#: Opens Parquet files as a table: paths, and the columns that frames select by.
Opener = Callable[[Sequence[str], Sequence[str]], Table]


def spark(options: Mapping[str, Any]) -> Opener:
    """Start PySpark and its Java in this sandbox, warm enough that a metric's first query is no first query."""
    session_of, functions = import_module("pyspark.sql").SparkSession, import_module("pyspark.sql.functions")
    give_columns(import_module("pyspark.sql.classic.dataframe").DataFrame)
    builder = session_of.builder.master(f"local[{options['cores']}]").appName("metric")
    for name, value in _spark_conf(options).items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    _warm_up(session, functions)

    def open_table(paths: Sequence[str], hidden: Sequence[str]) -> Table:
        if alike(paths):
            session.conf.set(_CASE, "true")
        return _spark_table(session.read.parquet(*paths), functions, hidden)

    return open_table


def spark_remote(options: Mapping[str, Any]) -> Opener:
    """Be a client of a Spark Connect server, through a socket that the trusted side serves: the sandbox has no network."""
    # what makes pyspark.sql.functions mean the server's
    os.environ["SPARK_CONNECT_MODE_ENABLED"] = "1"
    connect = import_module("pyspark.sql.connect.session")
    core = import_module("pyspark.sql.connect.client.core")
    grpc, functions = import_module("grpc"), import_module("pyspark.sql.functions")
    give_columns(import_module("pyspark.sql.connect.dataframe").DataFrame)

    def to_channel(builder: Any) -> Any:
        return grpc.insecure_channel(f"unix:{options['socket']}", options=builder._channel_options)

    # by this id the trusted side releases the session when the sandbox is gone; no user is named in here, nor there
    parts = {"toChannel": to_channel, "host": "localhost", "session_id": options["session"]}
    builder_class = type("RelayBuilder", (core.ChannelBuilder,), parts)
    session = connect.SparkSession.builder.channelBuilder(builder_class()).create()
    session.range(1).count()
    parquet = import_module("pyarrow.parquet")

    def open_table(paths: Sequence[str], hidden: Sequence[str]) -> Table:
        if alike(paths):
            session.conf.set(_CASE, "true")
        # The server sees none of our files: rows travel with the plan.
        return _spark_table(session.createDataFrame(parquet.read_table(list(paths))), functions, hidden)

    return open_table


def sqlframe(options: Mapping[str, Any]) -> Opener:
    """SQLFrame on DuckDB under PySpark's names: for machines without Java, without a part of PySpark."""
    duckdb = import_module("duckdb")
    connection = duckdb.connect(
        config={
            "threads": options["cores"],
            "memory_limit": f"{options['heap_mib']}MiB",
            "temp_directory": f"{_SCRATCH}/duckdb",
        }
    )
    import_module("sqlframe").activate("duckdb", conn=connection)
    session = import_module("sqlframe.duckdb").DuckDBSession(conn=connection)
    functions = import_module("sqlframe.duckdb.functions")
    give_columns(import_module("sqlframe.duckdb").DuckDBDataFrame)

    def open_table(paths: Sequence[str], hidden: Sequence[str]) -> Table:
        if names := alike(paths):
            message = f"the columns {' and '.join(names)} differ in case only, which this engine cannot tell apart"
            raise calc.MetricError("CBM012", message, hint="rename one, or set FQLSTREAM_CODE_METRICS__ENGINE=spark")
        return _spark_table(session.read.parquet(list(paths)), functions, hidden)

    return open_table


ENGINES: Final[Mapping[str, Callable[[Mapping[str, Any]], Opener]]] = {
    "spark": spark,
    "spark_remote": spark_remote,
    "sqlframe": sqlframe,
}


def alike(paths: Sequence[str]) -> list[str]:
    """Give the columns of these files that differ from another in case only. Spark tells them apart where it is told to."""
    names = import_module("pyarrow.parquet").read_schema(paths[0]).names
    folded = [name.lower() for name in names]
    return [name for name, low in zip(names, folded, strict=True) if folded.count(low) > 1]


def alias_moved_modules() -> None:
    """Keep `numpy.core._methods` importable, which Aporia documents and NumPy moved to `numpy._core` and then removed."""
    methods = import_module("numpy._core._methods")
    core = import_module("numpy.core")
    sys.modules["numpy.core._methods"] = methods
    vars(core)["_methods"] = methods


def _spark_table(table: Any, functions: Any, hidden: Sequence[str]) -> Table:
    columns = tuple(name for name in table.columns if name not in set(hidden))

    def frame(where: str | None) -> Any:
        rows = table if where is None else table.where(functions.col(f"`{where}`"))
        return rows.drop(*hidden) if hidden else rows

    return Table(columns, frame)


def _warm_up(session: Any, functions: Any) -> None:
    """Load Java's classes for reading Parquet, aggregating and collecting, which takes seconds the first time."""
    path = f"{_SCRATCH}/warm"
    rows = session.range(1_000).withColumn("x", functions.col("id") * 0.5)
    rows.write.parquet(path)
    read = session.read.parquet(path)
    read.where(functions.col("x") > 1).agg(functions.avg("x"), functions.count("id")).collect()
    read.collect()
    read.groupBy((functions.col("id") % 7).alias("k")).agg(functions.stddev("x")).toPandas()


def _spark_conf(options: Mapping[str, Any]) -> dict[str, str]:
    cores = int(options["cores"])
    return {
        "spark.driver.memory": f"{options['heap_mib']}m",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        # performance counters would be a file that others read; one collector thread is enough for one metric
        "spark.driver.extraJavaOptions": "-XX:-UsePerfData -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=128m -Djava.io.tmpdir="
        + _SCRATCH,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "OFF",
        "spark.local.dir": f"{_SCRATCH}/spark",
        "spark.sql.warehouse.dir": f"{_SCRATCH}/warehouse",
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        # rows lie in one file of one machine: Spark's own 200 tasks of a shuffle would take longer than the work
        "spark.sql.shuffle.partitions": str(2 * cores),
        "spark.default.parallelism": str(cores),
        "spark.python.worker.reuse": "true",
    }

"""The engine spark_remote on a real Spark Connect server, with a token. Starting it takes most of a minute: `pytest -m soak`.

The relay alone, on a server of the test's own, is in tests/unit/code_metrics/test_relay.py.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr
from tests.waiting import wait_until

from fqlstream.code_metrics.java import find_java
from fqlstream.code_metrics.pool import Pool
from fqlstream.code_metrics.request import CodeMetricsRefusedError, Frame, Job
from fqlstream.local.ports import find_free_port
from fqlstream.settings import CodeMetricsSettings

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]
SAID = "only the runner knows it"
CODES = {
    "import numpy as np\n\ndef calc_metric(df):\n    return np.average(df.collect().columns.age)\n": [25.0, 35.0],
    "from pyspark.sql import functions as F\n\ndef calc_metric(df):\n    return df.agg(F.max('age')).first()[0]\n": [
        40.0,
        40.0,
    ],
    "from pyspark.sql import functions as F\n\ndef calc_metric(df):\n    double = F.udf(lambda x: 2.0 * x, 'double')\n    return df.agg(F.sum(double('age'))).first()[0]\n": [
        200.0,
        140.0,
    ],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    found, (home, _) = find_spec("pyspark"), find_java(None)
    assert found is not None
    assert found.origin is not None
    assert home is not None
    port, directory = find_free_port(), tmp_path_factory.mktemp("connect")
    command = [
        str(Path(found.origin).parent / "bin" / "spark-submit"),
        *("--master", "local[2]", "--driver-memory", "768m", "--driver-java-options", "-XX:TieredStopAtLevel=1"),
        *("--conf", "spark.ui.enabled=false", "--conf", f"spark.connect.grpc.binding.port={port}"),
        *("--conf", f"spark.connect.authenticate.token={SAID}"),
        *("--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal"),
    ]
    environment = {
        **os.environ,
        "JAVA_HOME": str(home),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
    }
    with (directory / "log").open("wb") as log:
        # spark-submit becomes Java
        process = subprocess.Popen(command, cwd=directory, env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: listens(port) or process.poll() is not None, "Spark Connect listens", 240, look_s=0.5)
        assert process.poll() is None, (directory / "log").read_text()[-2_000:]
        yield port
    finally:
        process.kill()
        process.wait(30)


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"age": [10, 20, 30, 40], "_segment": [False, None, True, True]}), path)
    return path


def pool_of(port: int, token: str) -> Pool:
    address = SecretStr(f"sc://127.0.0.1:{port}/;token={token}")
    return Pool(CodeMetricsSettings(engine="spark_remote", spark_remote=address, warm=0, start_wait_s=60))


def test_a_server_computes_and_its_token_stays_outside(server: int, rows: Path) -> None:
    pool = pool_of(server, SAID)
    try:
        for code, values in CODES.items():
            outcome = pool.run(Job(code, (rows,), (Frame(""), Frame("seniors", "_segment"))))
            assert [frame.value for frame in outcome.frames] == values, outcome
            assert SAID not in repr(outcome)
    finally:
        pool.close()


def test_a_wrong_token_is_the_servers_refusal_without_the_token(server: int, rows: Path) -> None:
    pool = pool_of(server, "wrong-token")
    try:
        with pytest.raises(CodeMetricsRefusedError, match="Invalid authentication token") as refused:
            pool.run(Job(next(iter(CODES)), (rows,)))
        assert refused.value.code == "CBM105"
        assert "wrong-token" not in str(refused.value)
    finally:
        pool.close()

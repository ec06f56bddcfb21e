"""Spark 3.5 with Hadoop's own client: writes, overwrites, appends a partition and reads back, on each store."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from harness.place import STORES
from harness.tool import tool

EXPECTED = {
    "written": 10_000,
    "overwritten": 1000,
    "appended": 10_100,
    "partitions": [0, 1, 2, 3, 4],
    "sum": sum(range(1, 10_000, 4)),
    "word": "é7",
    "csv": 2500,
    "error_if_exists": "AnalysisException",
}


@pytest.fixture(scope="module")
def results(gateway, tmp_path_factory):
    """One Spark session does every store: starting it costs more than the work."""
    python = tool("pyspark")
    scratch = tmp_path_factory.mktemp("spark")
    bases = {f"webhdfs://{gateway.address('webhdfs')}/{bucket}/spark": store for store, bucket in STORES.items()}
    environment = os.environ | {"HADOOP_USER_NAME": "spark", "PYSPARK_PYTHON": str(python), "SPARK_LOCAL_IP": "127.0.0.1"}
    argv = [str(python), str(Path(__file__).with_name("job.py")), str(scratch), *bases]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=170)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    assert line, done.stderr[-6000:]
    return {bases[base]: found for base, found in json.loads(line.removeprefix("RESULT ")).items()}


@pytest.mark.parametrize("kind", STORES)
def test_spark_sees_what_it_wrote(results, kind):
    assert results[kind] == EXPECTED


@pytest.mark.parametrize("kind", STORES)
def test_a_committed_job_leaves_success_and_no_temporary(results, hdfs, kind):
    names = hdfs.names(f"/{STORES[kind]}/spark/partitioned")
    assert "_SUCCESS" in names
    assert "_temporary/" not in names
    assert [name for name in names if name.endswith("/")] == [f"part={number}/" for number in range(5)]


@pytest.mark.parametrize("kind", STORES)
def test_other_frontends_read_what_spark_wrote(results, s3, kind):
    listed = s3.list_objects_v2(Bucket=STORES[kind], Prefix="spark/table/")["Contents"]
    parts = [item for item in listed if item["Key"].endswith(".parquet")]
    assert parts
    for item in parts:
        body = s3.get_object(Bucket=STORES[kind], Key=item["Key"])["Body"].read()
        assert (len(body), body[:4], body[-4:]) == (item["Size"], b"PAR1", b"PAR1")

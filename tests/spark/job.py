"""What a Spark user does with a table over webhdfs://; run by the environment that has pyspark. Prints one JSON line."""

import json
import sys

from pyspark.sql import SparkSession


def main(bases: list[str], scratch: str) -> None:
    spark = (
        SparkSession.builder.master("local[2]").appName("forebay")
        .config("spark.ui.enabled", "false").config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1").config("spark.sql.shuffle.partitions", "2")
        .config("spark.local.dir", scratch).config("spark.sql.warehouse.dir", f"{scratch}/warehouse")
        .getOrCreate()
    )  # fmt: skip
    results = {base: steps(spark, base) for base in bases}
    spark.stop()
    print("RESULT " + json.dumps(results))


def steps(spark: SparkSession, base: str) -> dict:
    table = f"{base}/table"
    numbers = spark.range(0, 10_000, 1, 2).selectExpr("id", "id % 4 as part", "concat('é', id) as word")
    found = {}
    numbers.write.parquet(table)
    found["written"] = spark.read.parquet(table).count()
    numbers.where("id < 1000").write.mode("overwrite").parquet(table)
    found["overwritten"] = spark.read.parquet(table).count()
    numbers.write.partitionBy("part").parquet(f"{base}/partitioned")
    more = spark.range(10_000, 10_100).selectExpr("id", "4 as part", "'new' as word")
    more.write.mode("append").partitionBy("part").parquet(f"{base}/partitioned")
    back = spark.read.parquet(f"{base}/partitioned")
    found["appended"] = back.count()
    found["partitions"] = sorted(row.part for row in back.select("part").distinct().collect())
    found["sum"] = back.where("part = 1").selectExpr("sum(id) as total").first().total
    found["word"] = back.where("id = 7").first().word
    numbers.write.mode("overwrite").option("header", True).csv(f"{base}/csv")
    found["csv"] = spark.read.option("header", True).csv(f"{base}/csv").where("part = '3'").count()
    try:
        numbers.write.parquet(table)
        found["error_if_exists"] = "no error"
    except Exception as error:
        found["error_if_exists"] = type(error).__name__
    return found


if __name__ == "__main__":
    main(sys.argv[2:], sys.argv[1])

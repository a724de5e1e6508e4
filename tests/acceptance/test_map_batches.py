"""`millrace_client.map_batches` in the frameworks that it is for, each on a local cluster of its own.

They are no dependencies: docs/howto/score-in-ray-spark-dask.md says how to install them and run this.
"""

import importlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from millrace_client import map_batches

from tests.support.running import start_up

# What the frameworks warn of is theirs to mend.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
ROWS = 1000


@pytest.fixture(scope="module")
def url(make_onnx: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A stack with the tiny model."""
    models = tmp_path_factory.mktemp("models")
    make_onnx(models)
    stack = start_up("--models", str(models), "--jobs", "0")
    yield stack.url
    stack.stop()
    stack.log.unlink()


def scores(number: int) -> list[float]:
    """What the tiny model says of the row [number, 1, 2]."""
    return [float(number + 8), 10.0 * (number + 8)]


def expected() -> list[tuple[int, list[float]]]:
    return [(number, scores(number)) for number in range(ROWS)]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    found = pytest.importorskip("ray", reason="Ray is not installed")
    pytest.importorskip("ray.data", reason="Ray Data is not installed")
    found.init(num_cpus=2, include_dashboard=False, logging_level="error", _temp_dir=f"/tmp/ray-{os.getpid()}")
    yield found
    found.shutdown()
    shutil.rmtree(f"/tmp/ray-{os.getpid()}", ignore_errors=True)


@pytest.mark.parametrize("batch_format", ["numpy", "pyarrow", "pandas"])
def test_ray_data(ray: Any, url: str, batch_format: str) -> None:
    rows = [{"id": number, "x": np.array([number, 1, 2], np.float32)} for number in range(ROWS)]
    dataset = ray.data.from_items(rows, override_num_blocks=4)
    scored = dataset.map_batches(map_batches("tiny", column="x", url=url, rows=64), batch_format=batch_format)
    found = sorted((row["id"], [float(each) for each in row["scores"]]) for row in scored.take_all())
    assert found == expected()


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    sql = pytest.importorskip("pyspark.sql", reason="PySpark is not installed")
    pytest.importorskip("pandas", reason="pandas is not installed")
    if not shutil.which("java"):
        pytest.skip("there is no Java for Spark")
    builder = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.sql.warehouse.dir", str(tmp_path_factory.mktemp("spark")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        session = builder.getOrCreate()
        yield session
        session.stop()


def _frame(spark: Any) -> Any:
    rows = [(number, [float(number), 1.0, 2.0]) for number in range(ROWS)]
    return spark.createDataFrame(rows, "id long, x array<float>").repartition(4)


@pytest.mark.parametrize("method", ["mapInPandas", "mapInArrow"])
def test_spark_maps_batches(spark: Any, url: str, method: str) -> None:
    ask = map_batches("tiny", column="x", url=url, rows=64)
    scored = getattr(_frame(spark), method)(
        lambda batches: map(ask, batches), "id long, x array<float>, scores array<float>"
    )
    assert sorted((row["id"], list(row["scores"])) for row in scored.collect()) == expected()


def test_a_pandas_udf_of_spark(spark: Any, url: str) -> None:
    pandas = pytest.importorskip("pandas")
    functions = pytest.importorskip("pyspark.sql.functions")
    ask = map_batches("tiny", url=url, rows=64)

    def score(x: Any) -> Any:
        return ask(pandas.DataFrame({"x": x}))["scores"]

    score.__annotations__ = {"x": pandas.Series, "return": pandas.Series}
    udf = functions.pandas_udf(score, "array<float>")
    frame = _frame(spark)
    scored = frame.select("id", udf(frame["x"]).alias("scores"))
    assert sorted((row["id"], list(row["scores"])) for row in scored.collect()) == expected()


def test_dask(url: str) -> None:
    frames = pytest.importorskip("dask.dataframe", reason="Dask is not installed")
    distributed = pytest.importorskip("distributed", reason="Dask's cluster is not installed")
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"id": range(ROWS), "x": [[float(number), 1.0, 2.0] for number in range(ROWS)]})
    ask = map_batches("tiny", column="x", url=url, rows=64)
    importlib.import_module("dask").config.set({"dataframe.convert-string": False})  # else lists become texts
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster, cluster.get_client():
        scored = frames.from_pandas(frame, npartitions=4).map_partitions(ask, meta=ask(frame.iloc[:0])).compute()
    assert [(row.id, [float(each) for each in row.scores]) for row in scored.itertuples()] == expected()

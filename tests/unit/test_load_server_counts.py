"""What a load test reads of the server's own counts: Triton's statistics, and TensorFlow Serving's metrics."""

import json

from millrace_client.errors import NotSupported
from millrace_client.exchange import Request, Response
from millrace_client.load.server_counts import Ask, counts

# In the form of TensorFlow Serving 2.x: gRPC names its API Predict, REST predict; metadata calls have none.
METRICS = """\
# TYPE :tensorflow:serving:request_count counter
:tensorflow:serving:request_count{{model_name="m",status="OK"}} 12
# TYPE :tensorflow:serving:request_latency histogram
:tensorflow:serving:request_latency_bucket{{model_name="m",API="predict",entrypoint="REST",le="10"}} 0
:tensorflow:serving:request_latency_sum{{model_name="m",API="predict",entrypoint="REST"}} {rest}
:tensorflow:serving:request_latency_count{{model_name="m",API="predict",entrypoint="REST"}} {count}
:tensorflow:serving:request_latency_sum{{model_name="m",API="",entrypoint="REST"}} 9e+09
:tensorflow:serving:request_latency_count{{model_name="m",API="",entrypoint="REST"}} {count}
:tensorflow:serving:request_latency_sum{{model_name="m",API="Predict",entrypoint="GRPC"}} 1e+06
:tensorflow:serving:request_latency_count{{model_name="m",API="Predict",entrypoint="GRPC"}} 10
:tensorflow:serving:request_latency_sum{{model_name="another",API="Predict",entrypoint="GRPC"}} {rest}
:tensorflow:serving:request_latency_count{{model_name="another",API="Predict",entrypoint="GRPC"}} 1
# TYPE :tensorflow:serving:runtime_latency histogram
:tensorflow:serving:runtime_latency_sum{{model_name="m",API="Predict",runtime="TF1"}} {run}
:tensorflow:serving:runtime_latency_count{{model_name="m",API="Predict",runtime="TF1"}} {count}
# TYPE :tensorflow:serving:batching_session:queuing_latency histogram
:tensorflow:serving:batching_session:queuing_latency_sum{{thread_pool_name="batch_threads"}} {queue}
:tensorflow:serving:batching_session:queuing_latency_count{{thread_pool_name="batch_threads"}} {count}
"""


def server(**pages: str) -> Ask:
    """It has these pages, by the last part of their paths, and no other."""

    def ask(request: Request) -> Response:
        if (body := pages.get(request.path.rpartition("/")[2])) is None:
            raise NotSupported("404")
        return Response(status=200, headers={}, body=body.encode())

    return ask


def statistics(count: int, queue_ns: int) -> str:
    stage = {"count": str(count), "ns": str(queue_ns)}
    return json.dumps({"model_stats": [{"name": "m", "version": "1", "inference_stats": {"queue": stage}}]})


def test_the_metrics_of_tensorflow_serving_give_the_means_of_what_came_in_between() -> None:
    before = counts(server(metrics=METRICS.format(rest=0, count=2, run=1000, queue=500)), ("m/3",))
    after = counts(server(metrics=METRICS.format(rest="4.2e+04", count=12, run=21_000, queue=5500)), ("m/3",))
    assert before
    assert after
    assert after.means_ms(before) == {"request": 4.2, "run": 2.0, "queue": 0.5}
    assert after.source == "metrics"


def test_a_server_that_was_never_asked_has_counted_nothing_yet() -> None:
    before, after = (
        counts(server(metrics=page), ("m",)) for page in ("", METRICS.format(rest=0, count=2, run=3000, queue=500))
    )
    assert after
    assert after.means_ms(before)["run"] == 1.5
    assert after.means_ms(after) == {}


def test_statistics_go_before_metrics() -> None:
    metrics = METRICS.format(rest=0, count=2, run=1000, queue=500)
    before, after = (counts(server(stats=statistics(n, n * n), metrics=metrics), ("m",)) for n in (1000, 3000))
    assert after
    assert after.means_ms(before) == {"queue": 0.004}
    assert after.source == "statistics"


def test_a_server_that_counts_nothing_is_no_fault() -> None:
    assert counts(server(), ("m",)) is None
    after = counts(server(stats=statistics(1, 1)), ("m",))
    assert after
    assert after.means_ms(None) == {}

"""Flask that enqueues one RQ job for each request and waits for its result by a blocking read."""

import os

import numpy as np
import orjson
import redis
from flask import Flask, Response, request
from rq import Queue

app = Flask(__name__)
queue = Queue(connection=redis.Redis(port=int(os.environ["REDIS_PORT"]), max_connections=512))


@app.post("/predict")
def answer() -> Response:
    """{"instances": [image, …]} to {"predictions": [scores, …]}."""
    images = np.asarray(orjson.loads(request.get_data())["instances"], np.float32)
    job = queue.enqueue("rq_tasks.predict", images.tobytes(), result_ttl=10, description="predict")
    result = job.latest_result(timeout=30)
    if result is None:
        return Response(status=504)
    return Response(orjson.dumps({"predictions": result.return_value}), mimetype="application/json")

"""Flask with the model in the process: one run per request, in the request's thread; JSON by orjson."""

import numpy as np
import orjson
from cnn_session import predict
from flask import Flask, Response, request

app = Flask(__name__)


@app.post("/predict")
def answer() -> Response:
    """{"instances": [image, …]} to {"predictions": [scores, …]}."""
    images = np.asarray(orjson.loads(request.get_data())["instances"], np.float32)
    body = orjson.dumps({"predictions": predict(images)}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, mimetype="application/json")

"""An RQ worker that runs jobs in its own process, without a fork for each, and with the model loaded beforehand."""

import os

import redis
import rq_tasks  # noqa: F401 - loads the model before the first job
from rq import Queue, SimpleWorker

connection = redis.Redis(port=int(os.environ["REDIS_PORT"]))
SimpleWorker([Queue(connection=connection)], connection=connection).work(logging_level="WARNING")

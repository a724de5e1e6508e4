"""The worker: takes requests from the queue in batches, runs a backend, replies."""

import os

from millrace import telemetry

telemetry.silence(os.environ)

"""Training: data, models, fit, evaluate, export, publish. One file per model; `python -m training` runs them."""

import os

from millrace import telemetry

telemetry.silence(os.environ)

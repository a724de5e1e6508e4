"""Measurements of speed and memory, of this server and of others."""

import os

from millrace import telemetry

telemetry.silence(os.environ)

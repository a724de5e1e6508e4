"""The API as a plain WSGI application, for servers such as gunicorn: `gunicorn "serving.web.wsgi:build()"`.

The queue's side runs on an event loop in a thread of its own. Slower than `server.py`, by what threads that wait cost.
"""

import asyncio
import atexit
import os
import threading

from flask import Flask

from millrace import logs
from millrace.broker.redis import RedisBroker
from millrace.jobs.settings import JobStoreSettings
from millrace.settings import load
from serving.service import Service
from serving.settings import ServingSettings
from serving.web.app import create_app


def build(settings: ServingSettings | None = None) -> Flask:
    """The application with its real parts; settings come from the environment where none are given."""
    settings = settings or load(ServingSettings, os.environ)
    logs.configure("serving", settings.log_level)
    jobs = load(JobStoreSettings, os.environ)
    app, stop = run(Service(settings, RedisBroker(settings.redis_url), jobs))
    atexit.register(stop)
    return app


def run(service: Service) -> "tuple[Flask, Stop]":
    """The application around a service that is started in a background thread, and what stops it again."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="queue", daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(service.start(), loop).result()
    return create_app(service, loop), Stop(service, loop, thread)


class Stop:
    """Call it to drain the service and end its thread."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        self._service, self._loop, self._thread = service, loop, thread

    def __call__(self) -> None:
        """Returns when nothing of it runs any more."""
        asyncio.run_coroutine_threadsafe(self._service.stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

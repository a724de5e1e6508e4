"""Users for Locust that ask any model, at the pace of a schedule. A locustfile imports one, or makes its own of them:

    from millrace_client.load.users import ModelUser

    class Mine(ModelUser):
        abstract = False

Importing this adds the options of a run to Locust's own (`locust -f … --help`), and the listeners that share the
schedule among the processes and merge what they counted.
"""

import json
import logging
from pathlib import Path
from typing import Any, ClassVar

import gevent
from locust import User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

from millrace_client.load.connections import Connection
from millrace_client.load.faults import CannotRun
from millrace_client.load.options import declare_run, run_options
from millrace_client.load.session import Part, Session
from millrace_client.load.tally import Tally

_log = logging.getLogger(__name__)
_PART, _DONE, _FAILED = "millrace-part", "millrace-done", "millrace-failed"
CANNOT_RUN = 4  # exit status
_PAUSE_S = 0.1  # of a user who waits for answers, when there is no server to connect to
_GRACE_S = 15.0  # for workers to report, after the last answer could have come


class ModelUser(User):
    """A user with a connection of its own, who sends what is due and judges the answer."""

    abstract = True
    load: ClassVar["Load"]
    _wire: Connection | None = None

    def on_start(self) -> None:
        """Take part in the run."""
        if not self.load.is_over:
            self.load.users += 1
            self._wire = self.load.session.connect()

    def on_stop(self) -> None:
        """Leave it; the last one ends it."""
        if self._wire is not None:
            self._wire.close()
            self.load.leave()

    @task
    def ask(self) -> None:
        """Wait until a request is due, send it, and tell Locust what came of it."""
        session = self.load.session
        if self._wire is None or (due := session.pace.take()) is None:
            raise StopUser
        outcome = session.ask(self._wire, due)
        self.environment.events.request.fire(
            request_type=session.options.protocol,
            name=outcome.model,
            response_time=outcome.latency_s * 1000,
            response_length=outcome.size,
            exception=None if outcome.kind == "ok" else RuntimeError(f"{outcome.kind}: {outcome.message}"),
            context={},
        )
        if outcome.kind == "connection" and not session.options.is_open:
            gevent.sleep(_PAUSE_S)


class Load:
    """A load test in one process of Locust: alone, as the master, or as one of the workers."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.users = 0
        self.session: Session
        self.tally = Tally()
        self.cpu: list[float] = []
        self._part = Part()
        self._outstanding = 0
        self.is_over = True
        runner = environment.runner
        if isinstance(runner, WorkerRunner):
            runner.register_message(_PART, self._take_part)
        elif isinstance(runner, MasterRunner):
            runner.register_message(_DONE, self._merge)
            runner.register_message(_FAILED, self._fail_of_worker)
        environment.events.test_start.add_listener(self._prepare)
        environment.events.spawning_complete.add_listener(self._start)
        environment.events.test_stop.add_listener(self._stop)
        environment.events.quitting.add_listener(self._save)

    def leave(self) -> None:
        """A user has left. The last one of this process says what it counted."""
        self.users -= 1
        if self.users or self.is_over:
            return
        self.is_over = True
        runner, said = self.environment.runner, self.session.document()
        if isinstance(runner, WorkerRunner):
            runner.send_message(_DONE, said)
        else:
            self._add(said)
            self._end()

    def _prepare(self, environment: Environment, **_: object) -> None:
        runner = environment.runner
        self.tally, self.cpu, self.is_over = Tally(), [], False
        if isinstance(runner, MasterRunner):
            workers = list(runner.clients.ready)
            self._outstanding = len(workers)
            for index, worker in enumerate(workers):
                runner.send_message(_PART, {"index": index, "of": len(workers)}, worker.id)
            gevent.spawn(self._await_workers)
            return
        try:
            self.session = self._made_session()
            self.session.prepare()
        except CannotRun as error:
            self._fail(str(error))
        except Exception as error:  # Locust would go on without what was to be asked
            _log.exception("load test")
            self._fail(repr(error))

    def _made_session(self) -> Session:
        parsed = self.environment.parsed_options
        if parsed is None or not self.environment.host:
            raise CannotRun("give the server with --host")
        if not parsed.model:
            raise CannotRun("give the model with --model")
        if parsed.protocol.endswith("grpc"):
            from grpc.experimental import gevent as grpc_gevent

            grpc_gevent.init_gevent()
        try:
            return Session(run_options(parsed, parsed.model), self.environment.host, self._part)
        except ValueError as error:
            raise CannotRun(str(error)) from error

    def _start(self, **_: object) -> None:
        if not isinstance(self.environment.runner, MasterRunner) and not self.is_over:
            self.session.start()

    def _stop(self, **_: object) -> None:
        if not isinstance(self.environment.runner, MasterRunner) and not self.is_over:
            self.session.pace.stop()

    def _take_part(self, msg: Any, **_: object) -> None:
        self._part = Part(msg.data["index"], msg.data["of"])

    def _merge(self, msg: Any, **_: object) -> None:
        self._add(msg.data)
        self._outstanding -= 1
        if self._outstanding == 0:
            self._end()

    def _add(self, said: dict[str, Any]) -> None:
        self.tally.merge(Tally.of(said["tally"]))
        self.cpu.append(said["cpu"])

    def _await_workers(self) -> None:
        """A worker that is lost must not keep the master forever."""
        parsed = self.environment.parsed_options
        if parsed is not None:
            gevent.sleep(parsed.seconds + parsed.warm_up + parsed.request_timeout + _GRACE_S)
            if self._outstanding:
                self._fail(f"{self._outstanding} workers have not said what they counted")

    def _fail_of_worker(self, msg: Any, **_: object) -> None:
        self._fail(msg.data["message"])

    def _fail(self, message: str) -> None:
        self.is_over = True
        runner = self.environment.runner
        if isinstance(runner, WorkerRunner):
            runner.send_message(_FAILED, {"message": message})
            return
        _log.error("load test: %s", message)
        self.environment.process_exit_code = CANNOT_RUN
        self._end()

    def _end(self) -> None:
        """End the run; without the web page, the program too."""
        runner, parsed = self.environment.runner, self.environment.parsed_options
        if runner is not None and parsed is not None:
            gevent.spawn(runner.quit if parsed.headless else runner.stop)

    def _save(self, environment: Environment, **_: object) -> None:
        parsed = environment.parsed_options
        if isinstance(environment.runner, WorkerRunner):
            return
        if not self.tally.requests and not environment.process_exit_code:
            environment.process_exit_code = 1  # a run without requests has shown nothing
        if parsed is not None and parsed.result and self.cpu:
            document = {"tally": self.tally.document(), "cpu": self.cpu, "outstanding": self._outstanding}
            Path(parsed.result).write_text(json.dumps(document), encoding="utf-8")


@events.init_command_line_parser.add_listener
def declare_options(parser: LocustArgumentParser) -> None:
    """Add the options of a run to Locust's."""
    parser.add_argument("--model", action="append", default=[], help="a model to ask, NAME or NAME/VERSION; repeatable")
    declare_run(parser)
    parser.add_argument("--result", default="", metavar="FILE", help="write what was counted to this file, as JSON")


@events.init.add_listener
def take_part(environment: Environment, **_: object) -> None:
    """Make this process ready for runs."""
    ModelUser.load = Load(environment)

"""Who may change models, by the head of the request: a table of callers."""

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from millrace import logs
from millrace.broker.memory import MemoryBroker
from millrace.protocol.errors import InvalidRequest
from serving.access import audit
from serving.access.callers import UNKNOWN, Caller, grpc_address, is_local
from serving.access.control import ControlAccess
from serving.service import Service
from serving.settings import ServingSettings
from serving.web.app import create_app
from serving.web.control_routes import ACTIONS
from serving.web.route_access import RouteAccess

LOCAL = {b"host": b"localhost:8000"}


def allows(headers: dict[bytes, bytes], address: str = "127.0.0.1", **settings: Any) -> bool:
    return ControlAccess(ServingSettings(**settings)).check(headers, Caller(address)) is None


@pytest.mark.parametrize(
    ("address", "local"),
    [
        *[(address, True) for address in ("127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", "::1%lo", "")],
        *[
            (address, False)
            for address in ("10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0", "0.0.0.0", "::", "1.127.0.0")
        ],
        *[(address, False) for address in (UNKNOWN, "localhost", "127.0.0.1.example.org", "127.1", "2130706433")],
    ],
)
def test_only_loopback_addresses_and_unix_sockets_are_this_machine(address: str, local: bool) -> None:
    assert is_local(address) == local
    assert allows(LOCAL, address) == local
    assert allows(LOCAL, address, model_control="explicit")


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:50051", "127.0.0.1"),
        ("ipv6:%5B::1%5D:50051", "::1"),
        ("ipv6:[::ffff:10.0.0.1]:1", "::ffff:10.0.0.1"),
        ("unix:/run/a", ""),
        ("unix:", ""),
        ("", UNKNOWN),
        ("vsock:1:2", UNKNOWN),
        ("ipv4:", UNKNOWN),
    ],
)
def test_grpcs_word_for_a_peer_is_read(peer: str, address: str) -> None:
    assert grpc_address(peer) == address


@pytest.mark.parametrize("host", ["localhost", "LocalHost:8000", "127.0.0.1", "127.0.0.1:8000", "[::1]:8000", "[::1]"])
def test_a_caller_on_this_machine_may(host: str) -> None:
    assert allows({b"host": host.encode()})
    assert allows({b"host": host.encode(), b"sec-fetch-site": b"none"})


@pytest.mark.parametrize(
    "host",
    [
        "", "example.org", "example.org:8000", "localhost.example.org", "127.0.0.1.example.org",
        "localhost,example.org", "localhost, example.org", "example.org@localhost", "localhost@example.org",
        "localhost:8000:1", "localhost:x", "http://localhost", "localhost/", "local host", "10.0.0.1", "[::2]",
        "0.0.0.0", "::1", "localhost\x00",
    ],
)  # fmt: skip
def test_a_name_that_is_not_this_machines_is_refused_though_it_leads_here(host: str) -> None:
    assert not allows({b"host": host.encode()})
    assert not allows({b"host": host.encode()}, control_hosts="millrace.local")


def test_a_request_without_a_host_is_refused() -> None:
    assert not allows({})


def test_a_name_that_the_settings_have_is_this_machines() -> None:
    for host in (b"millrace.local", b"Millrace.Local:8000", b"api"):
        assert allows({b"host": host}, control_hosts="api, Millrace.local")
        assert not allows({b"host": host})


@pytest.mark.parametrize("mode", ["loopback", "explicit"])
@pytest.mark.parametrize(
    "page",
    [
        *[{b"origin": value} for value in (b"https://example.org", b"http://localhost:8001", b"null", b"")],
        {b"referer": b"http://localhost:8000/page"},
        {b"x-grpc-web": b"1"},
        *[{b"sec-fetch-site": value} for value in (b"cross-site", b"same-site", b"", b"None x")],
    ],
)
def test_a_web_page_is_refused_whatever_its_origin_and_the_cors_settings(mode: str, page: dict[bytes, bytes]) -> None:
    for origin in ("", "*", "https://example.org"):
        assert not allows(LOCAL | page, model_control=mode, cors_origin=origin)


_OWN_PAGE = [
    {b"sec-fetch-site": b"same-origin"},
    {b"sec-fetch-site": b"same-origin", b"origin": b"http://%s", b"referer": b"http://%s/"},
    {b"origin": b"http://%s"},
]


def own_page(page: dict[bytes, bytes], host: bytes) -> dict[bytes, bytes]:
    return {b"host": host} | {name: value.replace(b"%s", host) for name, value in page.items()}


@pytest.mark.parametrize("page", _OWN_PAGE)
def test_the_servers_own_page_may_do_what_its_user_may(page: dict[bytes, bytes]) -> None:
    for host in (b"localhost:8000", b"127.0.0.1", b"[::1]:8000"):
        assert allows(own_page(page, host))
        assert not allows(own_page(page, host), "10.0.0.1")
        assert allows(own_page(page, host), "10.0.0.1", model_control="explicit")
        assert not allows(own_page(page, host), model_control="none")
    assert allows(own_page(page, b"10.0.0.7:8000"), "10.0.0.1", model_control="explicit")
    assert allows(
        own_page(page, b"millrace.local"), "10.0.0.1", model_control="explicit", control_hosts="millrace.local"
    )


@pytest.mark.parametrize("page", _OWN_PAGE)
@pytest.mark.parametrize("mode", ["loopback", "explicit"])
def test_a_page_whose_name_suddenly_means_this_server_may_not(mode: str, page: dict[bytes, bytes]) -> None:
    for host in (b"example.org", b"example.org:8000", b"localhost.example.org", b"10.0.0.1.example.org"):
        assert not allows(own_page(page, host), model_control=mode)


def test_without_the_page_no_page_may() -> None:
    for page in _OWN_PAGE:
        assert not allows(own_page(page, b"localhost:8000"), playground=False)


@pytest.mark.parametrize(
    "name",
    [
        "forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-real-ip",
        "x-original-uri", "x-envoy-expected-rq-timeout-ms", "x-amzn-trace-id", "cf-ray", "true-client-ip", "cdn-loop",
    ],
)  # fmt: skip
def test_who_comes_through_a_proxy_is_not_on_this_machine(name: str) -> None:
    assert not allows(LOCAL | {name.encode(): b"10.0.0.1"})
    assert allows(LOCAL | {name.encode(): b"10.0.0.1"}, model_control="explicit")


def test_with_none_nobody_may_change_models() -> None:
    assert not allows(LOCAL, model_control="none")


def test_a_refusal_says_what_to_do() -> None:
    check = ControlAccess(ServingSettings()).check
    assert "MILLRACE_SERVING_MODEL_CONTROL=explicit" in str(check(LOCAL, Caller("10.0.0.1")))
    assert "MILLRACE_SERVING_CONTROL_HOSTS" in str(check({b"host": b"api"}, Caller("127.0.0.1")))
    assert "web page" in str(check(LOCAL | {b"origin": b"null"}, Caller("127.0.0.1")))


# The routes


@pytest.fixture
def service() -> Service:
    return Service(ServingSettings(), MemoryBroker())


@pytest.fixture
def client(service: Service) -> Iterator[FlaskClient]:
    loop = asyncio.new_event_loop()
    yield create_app(service, loop).test_client()
    loop.close()


HARMLESS = {"_hot", "_repository_index"}
JOBS = {"_submit_job", "_put_job", "_cancel_job", "_retry_job", "_delete_job"}  # they change no model


def test_every_route_that_takes_more_than_reading_is_known_to_the_rules(client: FlaskClient) -> None:
    changing = {
        rule.endpoint
        for rule in client.application.url_map.iter_rules()
        if (rule.methods or set()) - {"GET", "HEAD", "OPTIONS"}
    }
    assert changing - HARMLESS - JOBS == set(ACTIONS)


CHANGES = [
    ("POST", "/v2/repository/models/m/load"),
    ("POST", "/v2/repository/models/m/unload"),
    ("PUT", "/v1/models/m/traffic"),
    ("PUT", "/v1/models/m/labels/stable"),
    ("DELETE", "/v1/models/m/labels/stable"),
    ("PUT", "/v1/models/m/policy"),
    ("DELETE", "/v1/models/m/policy"),
]


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_a_page_is_refused_before_its_body_is_read(
    method: str, path: str, client: FlaskClient, service: Service, record: "Record"
) -> None:
    headers = {b"host": b"localhost", b"origin": b"https://example.org", b"content-type": b"text/plain"}
    routes = RouteAccess(client.application, service)
    refusal = routes.check(method, path, headers | {b"x-request-id": b"mine"}, "127.0.0.1")
    assert refusal
    assert refusal.status == 403
    assert dict(service.refused({}, refusal).headers)["x-request-id"] == "mine"
    assert routes.check(method, path, {b"host": b"localhost"}, "127.0.0.1") is None
    (line,) = record.lines
    assert (line["model"], line["caller"], line["request_id"], line["outcome"]) == (
        "m", "127.0.0.1", "mine", "PERMISSION_DENIED",
    )  # fmt: skip


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_the_same_holds_under_any_wsgi_server(method: str, path: str, client: FlaskClient) -> None:
    page = {"Origin": "null", "Content-Type": "text/plain"}
    answer = client.open(path, method=method, headers=page, data="{" * 100)
    assert answer.status_code == 403
    assert "web page" in answer.get_json()["error"]
    for address in ("10.0.0.1", ""):
        answer = client.open(path, method=method, environ_overrides={"REMOTE_ADDR": address})
        assert answer.status_code == 403
    assert client.open(path, method=method, headers={"Host": "example.org"}).status_code == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/repository/models/m/load"),
        ("HEAD", "/v2/repository/models/m/load"),
        ("GET", "/v1/models/m/traffic"),
        ("PATCH", "/v1/models/m/traffic"),
        ("POST", "/v1/models/m/traffic"),
        ("POST", "/v2/repository/models/m/LOAD"),
        ("POST", "/V2/repository/models/m/load"),
        ("POST", "/v2/repository/models/m/x/load"),
        ("PUT", "/V1/MODELS/m/labels/stable"),
    ],
)
def test_no_other_way_of_writing_a_path_or_method_changes_anything(
    method: str, path: str, client: FlaskClient, service: Service
) -> None:
    assert RouteAccess(client.application, service).check(method, path, {}, "10.0.0.1") is None
    overrides = {"X-HTTP-Method-Override": "PUT", "X-HTTP-Method": "DELETE", "X-Method-Override": "PUT"}
    answer = client.open(f"{path}?_method=PUT", method=method, headers=overrides, data="{}")
    assert answer.status_code in (400, 404, 405, 308, 503)  # 503: nothing is known of models without a queue


@pytest.mark.parametrize(
    "path",
    ["//v2/repository/models/m/load", "/v2/repository/models/a b\u00fc%2F/load", "/v2/repository/models/m/load/"],
)
def test_other_ways_that_lead_to_a_route_are_under_its_rule(path: str, client: FlaskClient, service: Service) -> None:
    routes = RouteAccess(client.application, service)
    assert routes.check("POST", path, {}, "10.0.0.1")
    assert routes.check("POST", path, {b"host": b"localhost"}, "127.0.0.1") is None


def test_pages_may_still_read_and_infer_as_the_cors_settings_say(client: FlaskClient) -> None:
    page = {"Origin": "https://example.org", "Sec-Fetch-Site": "cross-site"}
    assert client.get("/v2", headers=page).status_code == 200
    assert client.post("/v2/repository/index", headers=page).status_code == 503  # there is no queue


# The record


class Record:
    """The lines of the record, as the log has them."""

    def __init__(self) -> None:
        self.raw: list[str] = []

    @property
    def lines(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self.raw]


@pytest.fixture
def record() -> Iterator[Record]:
    kept = Record()

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.raw.append(self.format(record))

    handler = Kept()
    handler.setFormatter(logs.JsonFormatter("serving"))
    logger = logging.getLogger("serving.access.audit")
    logger.addHandler(handler)
    yield kept
    logger.removeHandler(handler)


def test_what_callers_write_stays_on_its_line_and_is_cut(record: Record) -> None:
    evil = 'm\n{"event": "model control", "outcome": "OK"}\r\u2028' + "x" * 10_000
    with pytest.raises(InvalidRequest), audit.recorded(Caller("::1", evil, "http"), "load", evil):
        raise InvalidRequest(evil)
    (raw,) = record.raw
    assert "\n" not in raw
    assert len(raw) < 6_000
    assert record.lines[0]["outcome"] == "INVALID_ARGUMENT"
    assert record.lines[0]["model"].startswith("m\n{")


def test_a_fault_of_our_own_is_recorded_too(record: Record) -> None:
    with pytest.raises(ZeroDivisionError), audit.recorded(Caller(), "load", "m"):
        raise ZeroDivisionError
    assert record.lines[0]["outcome"] == "FAILED"

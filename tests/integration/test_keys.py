"""API keys over HTTP, gRPC and WSGI: who comes in, which routes and models a key is good for, limits, and changes."""

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from millrace import logs, rpc
from millrace.broker.memory import MemoryBroker
from serving.access.exchange import UsageExchange
from serving.protocols.grpc_calls import ROLES as GRPC_ROLES
from serving.web import openapi
from serving.web.route_access import ROLES
from tests.support import http2frames as h2
from tests.support.http2client import connected
from tests.support.keyed_bench import OIP, PROTOCOLS, Keyed, keyed

Test = Callable[[Keyed], Awaitable[None]]


def run(folder: Path, test: Test, **settings: Any) -> None:
    async def go() -> None:
        async with keyed(folder, **settings) as bench:
            await test(bench)

    uvloop.run(asyncio.wait_for(go(), 30))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# Who comes in


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_known_key_comes_in_by_either_header_and_no_other(protocol: str, tmp_path: Path) -> None:
    async def test(bench: Keyed) -> None:
        key = bench.add("phone", "infer")
        for good in (bearer(key), {"X-API-Key": key}, {"authorization": f"bearer {key}"}):
            assert (await bench.infer(protocol, good)).status == 200
        wrong: tuple[dict[str, str], ...] = (
            {},
            bearer(key[:-1]),
            bearer(key + "x"),
            {"Authorization": "Bearer"},
            bearer("x" * 5000),
            {"Authorization": key},
            {"Authorization": f"Basic {key}"},
            {"X-API-Key": ""},
            {"X-API-Key": f"{key},{key}"},
            {**bearer(key), "X-API-Key": key},
        )
        for headers in wrong:
            answer = await bench.infer(protocol, headers)
            assert answer.status == 401, headers
            assert key not in answer.text
            if protocol != "gRPC":
                assert answer.headers["www-authenticate"].startswith("Bearer")
                assert "error" in json.loads(answer.text)

    run(tmp_path, test)


def test_two_headers_of_one_name_are_no_key(tmp_path: Path) -> None:
    async def ask(bench: Keyed, lines: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.settings.port)
        writer.write(f"GET /v2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer.split(b" ")[1]

    async def test(bench: Keyed) -> None:
        key, other = bench.add("phone", "read"), bench.add("tablet", "read")
        name, value = f"Authorization: Bearer {key}\r\n", f"X-API-Key: {key}\r\n"
        assert await ask(bench, name) == await ask(bench, value) == b"200"
        for lines in (name * 2, value * 2, name + f"Authorization: Bearer {other}\r\n", name + value):
            assert await ask(bench, lines) == b"401"
        assert await ask(bench, value.replace("-", "_")) == b"401"
        for pair in (
            (("authorization", f"Bearer {key}"),) * 2,
            (("authorization", f"Bearer {key}"), ("x-api-key", key)),
        ):
            call = bench.channel.unary_unary(f"{OIP}ServerMetadata")(b"", metadata=pair, timeout=10)
            assert "UNAUTHENTICATED" in str(await call.code())

    run(tmp_path, test)


def test_health_and_readiness_need_no_key(tmp_path: Path) -> None:
    async def test(bench: Keyed) -> None:
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/m/ready", "/docs", "/openapi.json"):
            for ask in (bench.over_http, bench.over_wsgi):
                assert (await ask("GET", path, {})).status == 200, path
        for name in ("ServerLive", "ServerReady", "ModelReady"):
            answer = await bench.over_grpc(f"{OIP}{name}", rpc.message(f"inference.{name}Request")(), {})
            assert answer.status == 200
        health = rpc.message("grpc.health.v1.HealthCheckRequest")()
        assert (await bench.over_grpc("/grpc.health.v1.Health/Check", health, {})).status == 200

    run(tmp_path, test)


# Roles and models


def test_every_route_has_its_roles(tmp_path: Path) -> None:
    async def test(bench: Keyed) -> None:
        routes = {rule.endpoint for rule in bench.app.url_map.iter_rules()}
        assert routes - {"static"} == set(ROLES)
        for rule in bench.app.url_map.iter_rules():  # what names a model has its name where the rules look for it
            others = {"number", "job", "label", "_", "_rest", "_name", "_number", "kind", "plot", "file"}
            assert {"name"} >= rule.arguments - others

    run(tmp_path, test)


OPEN = {"/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"}
OF_JOBS = re.compile(r"/v1/jobs")


def needed(method: str, path: str) -> set[str]:
    """The roles of which a key needs one, said another way than the table under test."""
    if path in OPEN or path.endswith("/ready") or path.startswith("/page/"):
        return set()
    if path in ("/", "/v2"):
        return {"infer", "read", "control", "metrics"}
    if "metrics" in path:
        return {"metrics"}
    if OF_JOBS.match(path):
        if method != "GET":
            return {"infer"}
        return {"read"} if path == "/v1/jobs" else {"read", "infer"}
    if "/files/" in path:
        return {"infer"}
    if method == "GET" or path == "/v2/repository/index":
        return {"read", "infer", "control"}
    return {"infer"} if re.search(r"(:\w+|/infer)$", path) else {"control"}


def filled(path: str, model: str) -> str:
    values = {"model": model, "version": "1", "label": "stable", "name": model, "kind": "system"}
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], "x"), path)


@pytest.mark.parametrize("server", ["HTTP", "WSGI"])
def test_every_route_of_the_api_asks_for_its_role_and_its_model(server: str, tmp_path: Path) -> None:
    async def test(bench: Keyed) -> None:
        ask = bench.over_http if server == "HTTP" else bench.over_wsgi
        keys = {role: bench.add(role, role) for role in ("infer", "read", "control", "metrics")}
        limited = {role: bench.add(f"{role}-m", role, models=("m",)) for role in keys}
        for operation in openapi.OPERATIONS:
            method = operation.method.upper()
            path, roles = filled(operation.path, "m"), needed(method, operation.path)
            what = f"{method} {path}"
            assert ((await ask(method, path, {})).status == 401) == bool(roles), what
            for role, key in keys.items():
                answer = await ask(method, path, bearer(key), {})
                assert (answer.status in (401, 403)) == bool(roles and role not in roles), f"{what} {role} {answer}"
                if answer.status == 403:
                    assert f"the key '{role}' lacks the role" in answer.text
            names_a_model = "{model}" in operation.path and not operation.path.endswith("/ready")
            for role in roles:
                answer = await ask(method, path, bearer(limited[role]), {})
                assert answer.status not in (401, 403), f"{what} {role} {answer}"
                answer = await ask(method, filled(operation.path, "other"), bearer(limited[role]), {})
                assert (answer.status == 403) == names_a_model, f"{what} {role} {answer}"
                if names_a_model:
                    assert "may not use the model 'other'" in answer.text

    run(tmp_path, test, load_timeout_s=1.0)


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/%6fther/infer", "/v2/models/other/versions/1/infer", "/v2/models/other/infer/",
        "/V1/Models/other:Predict", "/v1/models/%6Fther:predict", "/v1/models/other/labels/stable:predict",
        "/v1/models/other/versions/1:classify", "http://localhost/v2/models/other/infer",
        "/v2/models/m%2F..%2Fother/infer", "/v2/models/m/../other/infer", "/v1/models/m/versions/1/../../other:predict",
    ],
)  # fmt: skip
def test_no_way_of_writing_a_path_leads_to_another_model(path: str, tmp_path: Path) -> None:
    async def test(bench: Keyed) -> None:
        key = bench.add("phone", "infer", models=("m",))
        body = '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}], "instances": [1.0]}'
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.settings.port)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-API-Key: {key}\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        answer = await reader.read()
        writer.close()
        assert answer.split(b" ")[1] in (b"403", b"404", b"400"), answer
        assert b"outputs" not in answer
        assert b"predictions" not in answer

    run(tmp_path, test)


def test_no_way_of_writing_a_path_over_http2_leads_to_another_model(tmp_path: Path) -> None:
    paths = [
        "/v2/models/%6fther/infer", "//v2/models/other/infer", "/v2/models/other/infer/", "/v2/models/other/infer#m",
        "/V1/Models/other:Predict", "http://localhost/v2/models/other/infer", "/v2/models/m%2F..%2Fother/infer",
        "/v2/models/m/../other/infer", "/v2/models/m/%2e%2e/other/infer", "v2/models/other/infer",
        "/v1/models/other/labels/stable:predict", f"{OIP}ModelInfer", f"/{OIP}ModelInfer",
    ]  # fmt: skip

    async def test(bench: Keyed) -> None:
        key = bench.add("phone", "infer", models=("m",))
        body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}], "instances": [1.0]}'
        async with connected(bench.settings.port) as client:
            for stream, path in zip(range(1, 99, 2), paths, strict=False):
                fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")]
                client.send(h2.headers(stream, [*fields, ("x-api-key", key)]), h2.data(stream, body))
                assert (await client.fields(stream))[":status"] in ("400", "403", "404", "405"), path
                answer = await client.body(stream)
                assert b"outputs" not in answer
                assert b"predictions" not in answer

    run(tmp_path, test)


def message_of(path: str, model: str) -> Any:
    service, method = path.split("/")[1:]
    package = service.rpartition(".")[0]
    special = {
        "Predict": "PredictRequest",
        "Classify": "ClassificationRequest",
        "Regress": "RegressionRequest",
        "Check": "HealthCheckRequest",
        "HandleReloadConfigRequest": "ReloadConfigRequest",
    }
    found = rpc.message(f"{package}.{special.get(method, f'{method}Request')}")()
    if method == "MultiInference":
        found.tasks.add(method_name="tensorflow/serving/classify").model_spec.name = model
    for field in ("name", "model_name"):
        if field in found.DESCRIPTOR.fields_by_name:
            setattr(found, field, model)
    if "model_spec" in found.DESCRIPTOR.fields_by_name:
        found.model_spec.name = model
    if method == "GetModelMetadata":
        found.metadata_field.append("signature_def")
    if method == "HandleReloadConfigRequest":
        found.config.model_config_list.SetInParent()
    return found


def test_every_method_of_grpc_asks_for_its_role_and_its_model(tmp_path: Path) -> None:
    async def test(bench: Keyed) -> None:
        keys = {role: bench.add(role, role) for role in ("infer", "read", "control", "metrics")}
        limited = {role: bench.add(f"{role}-m", role, models=("m",)) for role in keys}
        streams = ("Watch", "ModelStreamInfer", "ReflectionInfo")
        known = {path for path in bench.grpc_methods if not path.endswith(streams)}
        assert len(known) > 15
        for path in sorted(known):
            roles = set(GRPC_ROLES.get(path, ("control",)))
            assert ((await bench.over_grpc(path, message_of(path, "m"), {})).status == 401) == bool(roles), path
            for role, key in keys.items():
                if role == "control" and "HandleReload" in path:
                    continue  # it would unload all
                answer = await bench.over_grpc(path, message_of(path, "m"), bearer(key))
                assert (answer.status in (401, 403)) == bool(roles and role not in roles), f"{path} {role} {answer}"
            names_a_model = not any(word in path for word in ("Server", "Memory", "Index", "Health", "ModelReady"))
            for role in roles:
                answer = await bench.over_grpc(path, message_of(path, "other"), bearer(limited[role]))
                assert (answer.status == 403) == names_a_model, f"{path} {role} {answer}"

    run(tmp_path, test, load_timeout_s=1.0)


def test_a_key_of_some_models_sees_these_alone(tmp_path: Path) -> None:
    async def test(bench: Keyed) -> None:
        key = bearer(bench.add("phone", "read", models=("m",)))
        for ask in (bench.over_http, bench.over_wsgi):
            for method, path in (("GET", "/"), ("GET", "/v1/models"), ("GET", "/v2/models/stats")):
                assert "other" not in (await ask(method, path, key)).text
            index = await ask("POST", "/v2/repository/index", key, {})
            assert [entry["name"] for entry in json.loads(index.text)] == ["m"]
        call = bench.channel.unary_unary(f"{OIP}RepositoryIndex")
        found = await call(b"", metadata=(("authorization", key["Authorization"]),))
        index = rpc.message("inference.RepositoryIndexResponse").FromString(found)
        assert [entry.name for entry in index.models] == ["m"]

    run(tmp_path, test)


# Changes of models


def test_every_control_action_is_recorded_with_the_name_of_its_key(
    record: list[dict[str, str]], tmp_path: Path
) -> None:
    async def test(bench: Keyed) -> None:
        operator, phone = bench.add("operator", "control"), bench.add("phone", "infer")
        path, far = "/v1/models/m/labels/stable", {"X-Forwarded-For": "10.0.0.1", "Host": "models.example.org"}
        for ask in (bench.over_http, bench.over_wsgi):
            assert (await ask("PUT", path, bearer(operator) | far, {"version": 1})).status == 200
            assert (await ask("PUT", path, bearer(phone), {"version": 1})).status == 403
            stranger = await ask("PUT", path, {}, {"version": 1})
            assert (stranger.status, stranger.headers["x-request-id"]) == (401, record[-1]["request_id"])
            assert (await ask("PUT", path, bearer(operator) | {"Origin": "null"}, {"version": 1})).status == 403
        load = rpc.message("inference.RepositoryModelLoadRequest")(model_name="m")
        assert (await bench.over_grpc(f"{OIP}RepositoryModelLoad", load, bearer(operator))).status == 200
        assert (await bench.over_grpc(f"{OIP}RepositoryModelLoad", load, bearer(phone))).status == 403
        assert operator not in str(record)

    run(tmp_path, test)
    shown = [(line["action"], line.get("key"), line["outcome"]) for line in record]
    of_http = [
        ("label", "operator", "OK"),
        ("label", "phone", "PERMISSION_DENIED"),
        ("label", None, "UNAUTHENTICATED"),
        ("label", "operator", "PERMISSION_DENIED"),
    ]
    assert shown == [*of_http, *of_http, ("load", "operator", "OK"), ("load", "phone", "PERMISSION_DENIED")]


# Limits


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_rate_is_kept_and_the_caller_is_told_when_to_come_again(protocol: str, tmp_path: Path) -> None:
    async def test(bench: Keyed) -> None:
        key, free = bearer(bench.add("phone", "infer", rate="3/h")), bearer(bench.add("desk", "infer"))
        answers = [await bench.infer(protocol, key) for _ in range(5)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
        assert "the key 'phone' may make 3/h requests" in answers[-1].text
        assert 1190 <= int(answers[-1].headers["retry-after"]) <= 1200  # a third of an hour
        assert (await bench.infer(protocol, free)).status == 200
        bench.add("later", "infer")  # another change of the file leaves the count alone
        assert (await bench.infer(protocol, key)).status == 429
        metrics = (await bench.over_wsgi("GET", "/metrics", bearer(bench.add("prometheus", "metrics")))).text
        assert 'millrace_key_requests_total{key="phone",status="200"} 3.0' in metrics
        assert 'millrace_key_requests_total{key="phone",status="429"} 3.0' in metrics

    run(tmp_path, test)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_only_so_many_requests_are_open_at_once(protocol: str, tmp_path: Path) -> None:
    async def test(bench: Keyed) -> None:
        key = bearer(bench.add("phone", "infer", concurrency=2))
        bench.works = False
        asking = [asyncio.create_task(bench.infer(protocol, key)) for _ in range(2)]
        await bench.until(lambda: bench.gate.counts_open("phone") == 2)
        answer = await bench.infer(protocol, key)
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        assert "may have 2 requests open at once" in answer.text
        bench.works = True
        assert [(await each).status for each in asking] == [200, 200]
        assert [(await bench.infer(protocol, key)).status for _ in range(3)] == [200] * 3

    run(tmp_path, test)


def test_a_request_whose_caller_leaves_is_open_no_longer(tmp_path: Path) -> None:
    async def test(bench: Keyed) -> None:
        key = bearer(bench.add("phone", "infer", concurrency=1))
        bench.works = False
        for protocol in ("HTTP", "gRPC"):
            asking = asyncio.create_task(bench.infer(protocol, key))
            await bench.until(lambda: bench.gate.counts_open("phone") == 1)
            asking.cancel()
            await bench.until(lambda: bench.gate.counts_open("phone") == 0)
        bench.works = True
        assert (await bench.infer("HTTP", key)).status == 200

    run(tmp_path, test)


def test_the_limits_hold_for_all_processes_together(tmp_path: Path) -> None:
    async def test() -> None:
        broker = MemoryBroker()
        async with keyed(tmp_path, broker) as one, keyed(tmp_path, broker) as two:
            key = bearer(one.add("phone", "infer", rate="100/h"))
            two.look()
            both = [
                UsageExchange(bench.gate, bench.service.api, bench.service.producer.exchange_usage)
                for bench in (one, two)
            ]
            counts = [0, 0]
            for _ in range(20):
                for each in (*both, *both):
                    await each.once()
                for number, bench in enumerate((one, two)):
                    while (await bench.infer("HTTP", key)).status == 200:
                        counts[number] += 1
            assert 100 <= sum(counts) <= 102
            assert min(counts) > 0

    uvloop.run(asyncio.wait_for(test(), 30))


# Changes of the file


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_key_that_is_removed_is_refused_and_one_that_is_added_comes_in(protocol: str, tmp_path: Path) -> None:
    async def test(bench: Keyed) -> None:
        key = bearer(bench.add("phone", "infer"))
        assert (await bench.infer(protocol, key)).status == 200
        bench.remove("phone")
        assert (await bench.infer(protocol, key)).status == 401
        again = bearer(bench.add("phone", "infer"))
        assert (await bench.infer(protocol, again)).status == 200
        assert (await bench.infer(protocol, key)).status == 401
        bench.file.write_text("{nothing")
        bench.look()
        assert (await bench.infer(protocol, again)).status == 200
        bench.file.unlink()
        bench.look()
        assert (await bench.infer(protocol, again)).status == 200
        assert (await bench.infer(protocol, key)).status == 401

    run(tmp_path, test)


def test_a_stream_whose_key_is_removed_is_answered_no_more(tmp_path: Path) -> None:
    async def test(bench: Keyed) -> None:
        key = bench.add("phone", "infer", models=("m",))
        message = rpc.message("inference.ModelInferRequest")(model_name="m")
        message.inputs.add(name="x", datatype="FP32", shape=[1])
        message.raw_input_contents.append(b"\0\0\x80\x3f")
        call = bench.channel.stream_stream(f"{OIP}ModelStreamInfer")(metadata=(("x-api-key", key),), timeout=20)

        async def said() -> str:
            await call.write(message.SerializeToString())
            text: str = rpc.message("inference.ModelStreamInferResponse").FromString(await call.read()).error_message
            return text

        assert await said() == ""
        message.model_name = "other"
        assert "may not use the model" in await said()
        message.model_name = "m"
        bench.remove("phone")
        assert await said() == "the API key is not known here"
        call.cancel()

    run(tmp_path, test)


def test_no_key_is_in_any_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def test(bench: Keyed) -> None:
        key, other = bench.add("phone", "infer", rate="2/h"), bench.add("desk", "read")
        for headers in (bearer(key), bearer(other), {"X-API-Key": key + "x"}, {"Authorization": key}):
            for protocol in PROTOCOLS:
                answer = await bench.infer(protocol, headers)
                assert key not in str(answer)
        formatter = logs.JsonFormatter("serving")
        text = "".join(formatter.format(each) for each in caplog.records)
        assert '"key":"phone"' in text.replace(" ", "")
        assert key not in text
        assert other not in text
        assert key not in bench.file.read_text()

    run(tmp_path, test, access_log=True)

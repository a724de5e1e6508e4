"""TLS, clients' certificates and API keys of the programs as users run them, by other people's clients and by ours."""

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from millrace_client import Client, ConnectionFailed, NotAllowed, NotAuthenticated, cli

from millrace import rpc
from serving.access.command import main as keys_command
from tests.support.running import Parts, Stack, until, until_all_say
from tests.support.tls import Certificates

ROWS = np.array([[1, 1, 1]], np.float32)
SCORES = [[6.0, 60.0]]
PROCESSES = 2


class Secure(NamedTuple):
    """A stack with TLS on both ports, which asks for certificates, and a file of keys."""

    parts: Parts
    certificates: Certificates
    keys: Path
    key: str

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.parts.ports[0]}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.parts.grpc_ports[0]}"

    def file(self, name: str) -> str:
        return self.certificates.file(name)

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.file("ca.crt"))
        context.load_cert_chain(self.file("client.crt"), self.file("client.key"))
        return context

    def content(self, name: str) -> bytes:
        return Path(self.file(name)).read_bytes()

    def channel(self, **own: bytes) -> grpc.Channel:
        return grpc.secure_channel(self.address, grpc.ssl_channel_credentials(self.content("ca.crt"), **own))

    @property
    def own(self) -> dict[str, bytes]:
        return {"private_key": self.content("client.key"), "certificate_chain": self.content("client.crt")}


@pytest.fixture(scope="module")
def secure(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates, make_onnx: Callable[..., Path]
) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("secure")
    make_onnx(folder / "models")
    keys = folder / "keys.json"
    add = [sys.executable, "-m", "serving.access.command", "--file", str(keys), "add"]
    key = subprocess.run(
        [*add, "phone", "--role", "infer", "--models", "tiny"], check=True, capture_output=True, text=True
    )
    settings = {
        "MILLRACE_SERVING_TLS_CERT": certificates.file("server.crt"),
        "MILLRACE_SERVING_TLS_KEY": certificates.file("server.key"),
        "MILLRACE_SERVING_TLS_CLIENT_CA": certificates.file("ca.crt"),
        "MILLRACE_SERVING_KEYS_FILE": str(keys),
        "MILLRACE_SERVING_PROCESSES": str(PROCESSES),
        "MILLRACE_SERVING_ACCESS_LOG": "true",
        "MILLRACE_LOG_LEVEL": "info",
    }
    with Parts(folder, folder / "models", waits=False, **settings) as parts:  # type: ignore[arg-type]
        found = Secure(parts, certificates, keys, key.stdout.strip())
        context = found.context()

        def look() -> tuple[int, str]:
            answer = httpx.get(f"{found.url}/v2/models/tiny/ready", verify=context)
            return answer.status_code, answer.headers["x-request-id"]

        until_all_say(PROCESSES, look, "the stack")
        yield found


def test_curl(secure: Secure) -> None:
    curl = [
        "curl",
        "-sS",
        "--cacert",
        secure.file("ca.crt"),
        f"{secure.url}/v1/models/tiny:predict",
        "-d",
        '{"instances": [[1,1,1]]}',
    ]
    own = ["--cert", secure.file("client.crt"), "--key", secure.file("client.key")]

    def ask(*more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([*curl, *more], capture_output=True, text=True)

    assert json.loads(ask(*own, "-H", f"Authorization: Bearer {secure.key}").stdout) == {"predictions": SCORES}
    assert json.loads(ask(*own, "-H", f"X-API-Key: {secure.key}", "--tlsv1.2", "--tls-max", "1.2").stdout)
    assert "an API key is needed" in ask(*own).stdout
    assert ask().returncode != 0


def test_openssl(secure: Secure) -> None:
    def says(*more: str) -> str:
        own = ["-cert", secure.file("client.crt"), "-key", secure.file("client.key")]
        command = ["openssl", "s_client", "-connect", secure.url[8:], "-CAfile", secure.file("ca.crt"), *own, *more]
        run = subprocess.run(command, input="", capture_output=True, text=True, timeout=30)
        return run.stdout + run.stderr

    found = says("-alpn", "spdy/1,http/1.1")
    assert "ALPN protocol: http/1.1" in found
    assert "Verify return code: 0 (ok)" in found
    assert "ALPN protocol" not in says("-alpn", "spdy/1")
    assert "Cipher is (NONE)" in says("-tls1_1", "-cipher", "ALL:@SECLEVEL=0")


def test_httpx(secure: Secure) -> None:
    with httpx.Client(base_url=secure.url, verify=secure.context(), headers={"X-API-Key": secure.key}) as client:
        for _ in range(3):
            response = client.post("/v1/models/tiny:predict", json={"instances": ROWS.tolist()})
            assert response.json() == {"predictions": SCORES}
        assert client.put("/v1/models/tiny/labels/a", json={"version": 1}).status_code == 403
        assert client.get("/metrics").status_code == 403


def test_grpcio(secure: Secure) -> None:
    message = rpc.message("inference.ModelInferRequest")(model_name="tiny", raw_input_contents=[ROWS.tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    path = "/inference.GRPCInferenceService/ModelInfer"
    with secure.channel(**secure.own) as channel:
        infer = channel.unary_unary(path)
        shown = (("authorization", f"Bearer {secure.key}"),)
        answer = rpc.message("inference.ModelInferResponse").FromString(
            infer(message.SerializeToString(), metadata=shown, timeout=20)
        )
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == SCORES[0]
        with pytest.raises(grpc.RpcError) as caught:
            infer(message.SerializeToString(), timeout=20)
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    with secure.channel() as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(message.SerializeToString(), metadata=shown, timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_tritonclient(secure: Secure) -> None:
    headers = {"authorization": f"Bearer {secure.key}"}
    own = {name: secure.file(file) for name, file in (("keyfile", "client.key"), ("certfile", "client.crt"))}
    clients: list[tuple[Any, Any]] = [
        (
            triton_http,
            triton_http.InferenceServerClient(
                secure.url[8:],
                ssl=True,
                ssl_context_factory=secure.context,
            ),
        ),
        (
            triton_grpc,
            triton_grpc.InferenceServerClient(
                secure.address,
                ssl=True,
                root_certificates=secure.file("ca.crt"),
                private_key=own["keyfile"],
                certificate_chain=own["certfile"],
            ),
        ),
    ]
    for module, client in clients:
        assert client.is_server_live()
        given = module.InferInput("x", [1, 3], "FP32")
        given.set_data_from_numpy(ROWS)
        answer = client.infer("tiny", [given], headers=dict(headers))  # which it changes
        assert answer.as_numpy("scores").tolist() == SCORES
        assert client.get_model_metadata("tiny", headers=headers)
        with pytest.raises(Exception, match="API key is needed"):
            client.infer("tiny", [given])
        client.close()


@pytest.mark.parametrize("transport", ["json", "binary", "grpc"])
def test_our_client(secure: Secure, transport: Any) -> None:
    url = f"grpcs://{secure.address}" if transport == "grpc" else secure.url
    trusts: dict[str, Any] = {
        "ca_file": secure.file("ca.crt"),
        "certificate": (secure.file("client.crt"), secure.file("client.key")),
    }
    with Client(url, transport=transport, api_key=secure.key, **trusts) as client:
        assert client.predict("tiny", ROWS).outputs["scores"].tolist() == SCORES
        with pytest.raises(NotAllowed, match="may not use the model 'other'"):
            client.predict("other", ROWS)
    with Client(url, transport=transport, api_key="wrong", **trusts) as client:
        assert client.is_ready("tiny")
        with pytest.raises(NotAuthenticated, match="not known here"):
            client.predict("tiny", ROWS)
    alone = {"api_key": secure.key, "ca_file": trusts["ca_file"]}
    with Client(url, transport=transport, retries=0, **alone) as client, pytest.raises(ConnectionFailed):
        client.predict("tiny", ROWS, timeout_s=5)


def test_our_commands_take_key_and_certificates_from_the_environment(
    secure: Secure, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("MILLRACE_CA_FILE", secure.file("ca.crt"))
    monkeypatch.setenv("MILLRACE_CLIENT_CERT", secure.file("client.crt"))
    monkeypatch.setenv("MILLRACE_CLIENT_KEY", secure.file("client.key"))
    monkeypatch.setenv("MILLRACE_API_KEY", secure.key)
    assert cli.models(["--url", secure.url]) == 0
    assert "tiny" in capsys.readouterr().out
    monkeypatch.delenv("MILLRACE_API_KEY")
    assert cli.models(["--url", secure.url]) == 1
    assert "an API key is needed" in capsys.readouterr().err
    (tmp_path / "key").write_text(f"{secure.key}\n")
    assert cli.models(["--url", secure.url, "--api-key-file", str(tmp_path / "key")]) == 0
    monkeypatch.setenv("MILLRACE_API_KEY_FILE", str(tmp_path / "key"))
    assert cli.models(["--url", secure.url]) == 0


def test_a_certificate_stands_for_a_key_and_a_change_of_the_file_needs_no_restart(secure: Secure) -> None:
    with httpx.Client(base_url=secure.url, verify=secure.context()) as client:
        assert client.get("/v1/models").status_code == 401
        assert (
            keys_command(["--file", str(secure.keys), "add", "gateway", "--role", "read", "--certificate", "client"])
            == 0
        )
        until(lambda: client.get("/v1/models").status_code == 200, 10)
        assert keys_command(["--file", str(secure.keys), "remove", "gateway"]) == 0
        until(lambda: client.get("/v1/models").status_code == 401, 10)


def test_the_log_names_the_key_and_never_shows_it(secure: Secure) -> None:
    test_httpx(secure)
    until(lambda: '"key": "phone"' in secure.parts.log.read_text() or '"key":"phone"' in secure.parts.log.read_text())
    assert secure.key not in secure.parts.log.read_text()


@pytest.mark.slow
def test_millrace_up_serves_with_tls_and_keys(
    up: Callable[..., Stack],
    certificates: Certificates,
    make_onnx: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_onnx(tmp_path / "models")
    assert keys_command(["--file", str(tmp_path / "keys"), "add", "phone", "--role", "infer"]) == 0
    for name, value in (
        ("SERVING_TLS_CERT", certificates.file("server.crt")),
        ("SERVING_TLS_KEY", certificates.file("server.key")),
        ("SERVING_KEYS_FILE", str(tmp_path / "keys")),
    ):
        monkeypatch.setenv(f"MILLRACE_{name}", value)
    stack = up("--models", str(tmp_path / "models"))
    assert "Millrace is ready at https://127.0.0.1" in stack.output
    assert os.environ.get("MILLRACE_SERVING_SUPERVISOR_KEY") is None

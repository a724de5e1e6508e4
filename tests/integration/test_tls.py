"""TLS on the HTTP server: handshakes, hostile callers, certificates of clients, and certificates that are replaced."""

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
from pathlib import Path

import pytest

from serving.access.callers import Peer
from serving.settings import ServingSettings
from serving.transport import handshake
from serving.transport.certificates import CertificateError, certificates
from serving.transport.responses import HttpResponse
from tests.support.echo_server import CHUNKED, GET, HUGE, Caller, Running, post, running, served
from tests.support.tls import Certificates

MB = 2**20


@pytest.fixture
def files(certificates: Certificates, tmp_path: Path) -> dict[str, Path]:
    """A server's certificate and key that the test may replace, as settings."""
    for name in ("server.crt", "server.key"):
        shutil.copy(certificates.file(name), tmp_path / name)
    return {"tls_cert": tmp_path / "server.crt", "tls_key": tmp_path / "server.key"}


@pytest.fixture
def trusting(certificates: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates.file("ca.crt"))


async def is_closed(caller: Caller) -> bool:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        return await caller.reader.read(1) == b""
    return True


def test_requests_and_responses_of_every_size_go_over_tls(files: dict[str, Path], trusting: ssl.SSLContext) -> None:
    trusting.set_alpn_protocols(["h3", "http/1.1"])

    @served
    async def test() -> None:
        async with running(trusting, **files) as r:
            caller = await r.connect()
            secured = caller.writer.get_extra_info("ssl_object")
            assert secured.version() in ("TLSv1.2", "TLSv1.3")
            assert secured.selected_alpn_protocol() == "http/1.1"
            for body in (b"", b"one", b"x" * 300_000, b"y" * 5_000_000):
                caller.send(post(body))
                assert (await caller.answer())[2] == b"POST /a " + body
            caller.send(CHUNKED + GET)
            assert [(await caller.answer())[2] for _ in range(2)] == [b"POST /a hello world", b"GET /a "]
            caller.send(post(b"", path="/huge"))
            await asyncio.sleep(0)
            count = 0
            while count < HUGE:  # as slowly as TLS and the test allow
                count += len(await caller.reader.read(min(400_000, HUGE - count)))
            assert r.echo.peers[-1] == "127.0.0.1"

    test()


def test_a_caller_is_told_why_its_large_body_is_refused_while_it_still_sends(
    files: dict[str, Path], trusting: ssl.SSLContext
) -> None:
    @served
    async def test() -> None:
        async with running(trusting, max_body_bytes=2000, **files) as r:
            caller = await r.asked(post(b"x" * 3_000_000))
            status, headers, _ = await caller.answer()
            assert (status, headers["connection"]) == (413, "close")
            caller = await r.asked(post(b"", "connection: close"))
            assert (await caller.answer())[0] == 200
            assert await is_closed(caller)

    test()


def test_a_caller_that_leaves_is_given_up(files: dict[str, Path], trusting: ssl.SSLContext) -> None:
    @served
    async def test() -> None:
        async with running(trusting, **files) as r:
            caller = await r.asked(post(b"", path="/held"))
            await r.until(lambda: r.echo.held)
            caller.writer.close()
            await r.until(lambda: r.echo.withdrawn)

    test()


def test_a_response_that_is_not_read_is_counted_and_cut_off(files: dict[str, Path], trusting: ssl.SSLContext) -> None:
    def ask(port: int) -> ssl.SSLSocket:
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect(("127.0.0.1", port))
        caller = trusting.wrap_socket(plain, server_hostname="127.0.0.1")
        caller.sendall(post(b"", path="/huge"))
        return caller

    @served
    async def test() -> None:
        async with running(trusting, request_timeout_ms=700, max_buffered_bytes=50_000_000, **files) as r:
            with await asyncio.to_thread(ask, r.server.port):
                await r.until(lambda: r.budget.used == HUGE)
                await r.until(lambda: r.budget.used == 0)
            small = await r.asked(GET)
            assert (await small.answer())[0] == 200

    test()


def test_old_versions_of_tls_are_refused(files: dict[str, Path], certificates: Certificates) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1

    @served
    async def test() -> None:
        async with running(old, **files) as r:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await r.connect()
            await r.until(lambda: r.server.tls and r.server.tls.failed)

    test()


# Hostile callers


async def plain(r: Running, data: bytes) -> Caller:
    caller = Caller(*await asyncio.open_connection("127.0.0.1", r.server.port))
    caller.send(data)
    return caller


HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
HOSTILE = {"nothing": b"", "half a hello": HELLO, "garbage": os.urandom(4096), "plain HTTP": GET}


def test_handshakes_that_come_to_nothing_end_and_hold_nothing(files: dict[str, Path], trusting: ssl.SSLContext) -> None:
    @served
    async def test() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(handshake, "_HANDSHAKE_S", 0.3)
            async with running(trusting, **files) as r:
                hostile = [await plain(r, data) for data in HOSTILE.values() for _ in range(5)]
                caller = await r.asked(GET)
                assert (await caller.answer())[0] == 200
                assert all([await is_closed(each) for each in hostile])
                await r.until(lambda: len(r.server.connections) == 1)
                for each in hostile:
                    each.writer.close()

    test()


def test_handshakes_count_against_the_limit_and_the_oldest_make_room(
    files: dict[str, Path], trusting: ssl.SSLContext
) -> None:
    @served
    async def test() -> None:
        async with running(trusting, max_connections=10, **files) as r:
            busy = await r.asked(post(b"", path="/held"))
            await r.until(lambda: r.echo.held)
            hostile = [await plain(r, HELLO) for _ in range(40)]
            await r.until(lambda: r.server.connections.accepted >= 41)
            assert len(r.server.connections) <= 10
            caller = await r.asked(GET)
            assert (await caller.answer())[0] == 200
            assert await is_closed(hostile[0])
            r.echo.held.pop()(HttpResponse(200, b"still here"))
            assert (await busy.answer())[2] == b"still here"
            for each in hostile:
                each.writer.close()

    test()


def test_a_server_that_stops_does_not_wait_for_handshakes(files: dict[str, Path], trusting: ssl.SSLContext) -> None:
    @served
    async def test() -> None:
        async with running(trusting, drain_timeout_s=60, **files) as r:
            hostile = await plain(r, HELLO)
            busy = await r.asked(post(b"", path="/held"))
            await r.until(lambda: r.echo.held and len(r.server.connections) == 2)
            stopping = asyncio.create_task(r.server.stop())
            assert await is_closed(hostile)
            r.echo.held.pop()(HttpResponse(200, b"at last"))
            assert (await busy.answer())[2] == b"at last"
            await stopping
            hostile.writer.close()

    test()


# Certificates of clients


def test_a_clients_certificate_names_it(
    files: dict[str, Path], certificates: Certificates, trusting: ssl.SSLContext
) -> None:
    trusting.load_cert_chain(certificates.file("client.crt"), certificates.file("client.key"))
    authority = Path(certificates.file("commented.crt"))
    authority.write_bytes("# Autorité de certification\n".encode() + Path(certificates.file("ca.crt")).read_bytes())

    @served
    async def test() -> None:
        async with running(trusting, tls_client_ca=authority, **files) as r:
            assert (await (await r.asked(GET)).answer())[0] == 200
            peer = r.echo.peers[-1]
            assert isinstance(peer, Peer)
            assert (peer, peer.certificate) == ("127.0.0.1", "client")

    test()


@pytest.mark.parametrize("stranger", ["without a certificate", "of another authority"])
def test_a_client_without_a_known_certificate_is_refused_where_it_must_have_one(
    stranger: str, files: dict[str, Path], certificates: Certificates, trusting: ssl.SSLContext, tmp_path: Path
) -> None:
    if stranger == "of another authority":
        (tmp_path / "other").mkdir()
        other = Certificates(tmp_path / "other")
        other.make()
        trusting.load_cert_chain(other.file("client.crt"), other.file("client.key"))

    @served
    async def test() -> None:
        authority = Path(certificates.file("ca.crt"))
        async with running(trusting, tls_client_ca=authority, **files) as r:
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await (await r.asked(GET)).answer()  # in TLS 1.3 a client learns it after its handshake
            await r.until(lambda: r.server.tls and r.server.tls.failed)
            assert not r.echo.seen
        async with running(trusting, tls_client_ca=authority, tls_client_auth="optional", **files) as r:
            if stranger == "without a certificate":
                assert (await (await r.asked(GET)).answer())[0] == 200
                assert r.echo.peers[-1].certificate == ""  # type: ignore[attr-defined]
            else:
                with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                    await (await r.asked(GET)).answer()

    test()


# Certificates that are replaced


def test_a_replaced_certificate_is_shown_to_new_connections_and_a_broken_one_is_not(
    files: dict[str, Path], certificates: Certificates, trusting: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    trusting.check_hostname = False

    def subject(caller: Caller) -> str:
        return dict(part[0] for part in caller.writer.get_extra_info("peercert")["subject"])["commonName"]

    @served
    async def test() -> None:
        async with running(trusting, **files) as r:
            assert r.server.tls
            watched = r.server.tls.certificates.files
            first = await r.connect()
            assert subject(first) == "server"
            files["tls_cert"].write_text("no certificate")
            watched.look()
            assert "stays in use" in caplog.records[-1].message
            assert subject(await r.connect()) == "server"
            shutil.copy(certificates.file("stranger.crt"), files["tls_cert"])
            watched.look()  # which does not go with the key
            assert subject(await r.connect()) == "server"
            shutil.copy(certificates.file("stranger.key"), files["tls_key"])
            watched.look()
            assert subject(await r.connect()) == "stranger"
            first.send(GET)
            assert (await first.answer())[0] == 200

    test()


def test_a_replaced_certificate_is_found_without_being_asked(
    files: dict[str, Path], certificates: Certificates, trusting: ssl.SSLContext
) -> None:
    trusting.check_hostname = False

    @served
    async def test() -> None:
        async with running(trusting, **files) as r:
            assert r.server.tls
            shown = r.server.tls.certificates
            before = shown.loaded
            shown.files.start()
            for name, target in (("stranger.crt", "tls_cert"), ("stranger.key", "tls_key")):
                link = files[target].with_suffix(".new")
                link.symlink_to(certificates.file(name))
                link.replace(files[target])  # as Kubernetes does it
            await r.until(lambda: shown.loaded is not before)
            await shown.files.stop()

    test()


# Settings


@pytest.mark.parametrize(
    ("cert", "key", "words"),
    [
        ("nowhere", "server.key", "nowhere cannot be read"),
        ("server.key", "server.key", "are no certificate with its key"),
        ("stranger.crt", "server.key", "are no certificate with its key: KEY_VALUES_MISMATCH"),
        ("server.crt", "encrypted", "the key is encrypted"),
    ],
)
def test_files_that_are_no_certificate_with_its_key_are_named(
    cert: str, key: str, words: str, certificates: Certificates
) -> None:
    if key == "encrypted":
        key = certificates.encrypt("server.key")
    named = {"tls_cert": Path(certificates.file(cert)), "tls_key": Path(certificates.file(key))}
    with pytest.raises(CertificateError, match=words):
        from_settings(**named)


def from_settings(**named: Path) -> None:
    certificates(ServingSettings(**named))


def test_a_certificate_goes_with_a_key_and_an_authority_with_both() -> None:
    for wrong in ({"tls_cert": "a"}, {"tls_key": "a"}, {"tls_client_ca": "a"}):
        with pytest.raises(ValueError, match="MILLRACE_SERVING_TLS_CERT"):
            ServingSettings(**wrong)

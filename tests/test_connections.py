"""What a client can do with connections, heads of requests and sessions alone, on a real server."""

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import httpx
import pytest
from starlette.exceptions import HTTPException

from benchmarks.rest_client import RefusedError, Visit
from marigold_demo.serving import lifecycle, listening, middleware
from marigold_demo.serving.config import Configuration
from marigold_demo.serving.lifecycle import Connections, Server, Service, most_connections
from marigold_demo.serving.listening import AddressError, Place, listen
from marigold_demo.ui import build_page, launch, queue
from marigold_demo.ui.strict_blocks import CallFilter
from marigold_demo.workflow import Workflow
from tests.pages import LENIENT, Ball, draw_photo, small_app

pytestmark = [pytest.mark.slow, LENIENT]
HEAD_S = 0.5  # in place of 20 s


# -- connections: a small app behind the real protocol ------------------------------------------------


@contextmanager
def small_server(bounds: Connections, *, app=small_app) -> Iterator[Place]:
    place = listen("127.0.0.1", 0)
    server = Server(app, place, bounds=bounds, trusted_proxies="")
    server.begin()
    try:
        yield place
    finally:
        server.config.timeout_graceful_shutdown = 1
        server.close()


def connect(place: Place, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", place.port), timeout=10)
    connection.sendall(sent)
    return connection


def answer_of(connection: socket.socket) -> bytes:
    """Return all that comes until the server closes the connection."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionError:
        parts.append(b" and a reset")
    return b"".join(parts)


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def timed():
    bounds = Connections(1000, head_s=HEAD_S, body_s=HEAD_S)
    with small_server(bounds) as place:
        yield place, bounds


def eventually(is_so, *, within_s: float = 10) -> bool:
    end_s = time.monotonic() + within_s
    while not is_so() and time.monotonic() < end_s:
        time.sleep(0.01)
    return is_so()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"G",
        b"GET / HTTP/1.1\r\nHost: x\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 5000,
        GET + b"GET /",  # after an answer, on a connection that is kept
    ],
    ids=["nothing", "a letter", "no end", "a long header", "the second request"],
)
def test_a_head_that_does_not_arrive_ends_its_connection(timed, sent):
    place, bounds = timed
    with connect(place, sent) as connection:
        said = answer_of(connection)
    if sent:
        assert b"HTTP/1.1 408 " in said and b"did not arrive in time" in said
    assert eventually(lambda: len(bounds) == 0)


def test_a_head_that_trickles_gets_no_more_time_than_one_that_stops(timed):
    place, _ = timed
    with connect(place) as connection:
        began_s = time.monotonic()
        with pytest.raises(ConnectionError):
            for _ in range(200):
                connection.sendall(b"X")
                time.sleep(0.05)
        assert time.monotonic() - began_s < 6


def test_a_body_that_trickles_after_its_refusal_ends_too(timed):
    place, bounds = timed
    with connect(
        place, b"POST /refused HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    ) as connection:
        with pytest.raises(ConnectionError):
            for _ in range(200):
                connection.sendall(b"X")
                time.sleep(0.05)
    assert eventually(lambda: len(bounds) == 0)


def test_a_body_that_stands_still_ends_its_connection(timed):
    place, bounds = timed
    with connect(place, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf") as connection:
        began_s = time.monotonic()
        assert b"200" not in answer_of(connection)
        assert time.monotonic() - began_s < 8
    assert eventually(lambda: len(bounds) == 0)


def test_requests_that_take_long_and_connections_that_are_kept_are_left_alone(timed):
    place, _ = timed
    with httpx.Client(base_url=place.url) as client:
        assert client.get("/slow").text == "0"  # three times as long as a head may take
        time.sleep(HEAD_S / 2)
        assert client.post("/slow", content=b"abc").text == "3"


def test_pipelined_requests_are_all_answered(timed):
    place, _ = timed
    with connect(place, GET * 3 + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")) as connection:
        assert answer_of(connection).count(b"HTTP/1.1 200") == 4


def test_a_client_that_takes_nothing_is_let_go(monkeypatch):
    monkeypatch.setattr(lifecycle, "UNREAD_S", 1.0)
    bounds = Connections(100)
    with small_server(bounds) as place, connect(place, GET.replace(b"/ ", b"/endless ")):
        assert eventually(lambda: len(bounds) == 1)
        assert eventually(lambda: len(bounds) == 0, within_s=20)


@contextmanager
def held(place: Place, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(connect(place, sent)) for _ in range(count)]


def test_idle_connections_give_way_and_busy_ones_do_not(monkeypatch):
    refused = []
    monkeypatch.setattr(lifecycle, "PATIENT_S", 0.2)
    bounds = Connections(32, exempt=lambda address: True, refused=lambda: refused.append(1))
    with small_server(bounds) as place:
        with held(place, 32, b"GET /") as idle:
            assert eventually(lambda: len(bounds) == 32)
            time.sleep(0.3)
            assert [httpx.get(place.url, timeout=10).text for _ in range(3)] == ["0"] * 3
            assert eventually(lambda: len(bounds) == 31) and refused == []  # one gave way, once
            assert b"200" not in answer_of(idle[0])  # the oldest went
        assert eventually(lambda: len(bounds) == 0)
        with held(place, 32, GET.replace(b"/ ", b"/slow ")) as busy:
            assert eventually(lambda: len(bounds) == 32)
            with connect(place, GET) as one_more:
                said = answer_of(one_more)
            assert b"HTTP/1.1 503 " in said
            assert "as many connections as it takes" in json.loads(said.split(b"\r\n\r\n")[1])["detail"]
            assert all(b"200 OK" in connection.recv(1000) for connection in busy)
        assert refused == [1]
        assert eventually(lambda: len(bounds) == 0)
        assert httpx.get(place.url).text == "0"


def test_one_address_has_a_share_and_a_proxy_has_none():
    with small_server(Connections(1000)) as place:  # nobody is exempt
        with held(place, 100, GET.replace(b"/ ", b"/slow ")):
            with connect(place, GET) as one_more:
                assert b"from your address" in answer_of(one_more)
    configuration = Configuration(trusted_proxies="10.0.0.0/8, 2001:db8::1")
    for address, is_one in (
        ("127.0.0.1", True),
        ("::1", True),
        ("10.2.3.4", True),
        ("2001:db8::1", True),
        ("2001:db8::2", False),
        ("192.0.2.1", False),
        ("", False),
    ):
        assert configuration.is_proxy(address) is is_one, address
    assert Configuration(trusted_proxies="*").is_proxy("192.0.2.1")


def test_a_burst_without_descriptors_fills_no_log_and_ends_no_service(tmp_path):
    """In a process of its own, whose limit on open files is lower than the bound supposes."""
    words = """
import logging, resource, sys
from marigold_demo.serving.config import Configuration
from marigold_demo.serving.lifecycle import Connections, Server
from marigold_demo.serving.monitor import set_up_logging
from marigold_demo.serving.listening import listen
from tests.pages import small_app
place = listen("127.0.0.1", 0)
server = Server(small_app, place, bounds=Connections(1000, exempt=lambda address: True), trusted_proxies="")
server.begin()
set_up_logging(Configuration(), count=lambda kind: None)
resource.setrlimit(resource.RLIMIT_NOFILE, (120, 120))
print(place.port, flush=True)
sys.stdin.read()
"""
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )
    try:
        port = int(process.stdout.readline())
        with ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            # Those that wait go, a hundred each time that asyncio tries again, which is every second.
            assert httpx.get(f"http://127.0.0.1:{port}/", timeout=20).text == "0"
        assert httpx.get(f"http://127.0.0.1:{port}/", timeout=20).text == "0"
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line for line in lines if "out of system resource" in line]
    assert len(lines) <= 3
    assert all(len(line) < 2000 for line in lines)


def test_the_limit_on_open_files_rises_with_the_connections(monkeypatch):
    import resource

    limit = [(1024, 20_000)]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limit[0])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: limit.__setitem__(0, pair))
    assert (most_connections(1000), limit[0]) == (1000, (2512, 20_000))
    limit[0] = (256, 1024)  # and the system allows no more
    assert (most_connections(1000), limit[0]) == (256, (1024, 1024))


# -- where it listens ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "url", "reached_by"),
    [
        ("127.0.0.1", "http://127.0.0.1:", ["127.0.0.1"]),
        ("localhost", "http://localhost:", ["localhost"]),
        ("0.0.0.0", "http://127.0.0.1:", ["127.0.0.1"]),
        ("::1", "http://[::1]:", ["::1"]),
        ("[::1]", "http://[::1]:", ["::1"]),
        ("::", "http://127.0.0.1:", ["127.0.0.1", "::1"]),
        ("[::]", "http://127.0.0.1:", ["127.0.0.1", "::1"]),
    ],
)
def test_every_way_to_write_an_address_is_listened_on(name, url, reached_by):
    place = listen(name, 0)
    try:
        assert place.url == f"{url}{place.port}/"
        for address in reached_by:
            socket.create_connection((address, place.port), timeout=5).close()
    finally:
        place.close()


@pytest.mark.parametrize(
    "name", ["nobody.invalid", "192.0.2.254", "127.0.0.1:80", "a..b", "x" * 70, "::g", ""]
)
def test_what_is_no_address_of_this_machine_is_a_sentence_that_names_the_variable(name):
    with pytest.raises(AddressError, match=r"^GRADIO_SERVER_NAME is '.*such as 127\.0\.0\.1 or ::1\.$"):
        listen(name, 0)


def test_a_port_in_use_is_a_sentence_and_only_an_unset_one_is_replaced(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for name in ("127.0.0.1", "0.0.0.0", "::"):
            with pytest.raises(AddressError, match=f"^Port {port} is in use; .* GRADIO_SERVER_PORT "):
                listen(name, port)
        monkeypatch.setattr(listening, "FIRST_PORT", port)
        place = listen("127.0.0.1", None)
        assert port < place.port < port + 100
        place.close()
        monkeypatch.setattr(listening, "PORTS", 1)
        with pytest.raises(AddressError, match="All ports from"):
            listen("127.0.0.1", None)


def test_two_servers_that_start_at_once_do_not_share_a_port():
    first = listen("127.0.0.1", 0)
    with pytest.raises(AddressError, match="in use"):
        listen("127.0.0.1", first.port)  # though the first one takes no connection yet
    first.close()
    listen("127.0.0.1", first.port).close()


# -- the page's server: lengths, hosts, origins -------------------------------------------------------


@pytest.fixture(scope="module")
def service():
    return Service(Configuration(metrics=True, hosts="depth.example.org, *.friends.example"))


@pytest.fixture(scope="module")
def page(service, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("connections") / "cache"))
        page = build_page(Workflow(Ball(steps=1)))
        launch(page, service, listen("127.0.0.1", 0))
        service.set_up_logging()
        yield page
        page.close(verbose=False)


@pytest.fixture(scope="module")
def http(page):
    with httpx.Client(base_url=page.local_url, timeout=60) as client:
        yield client


def noted(service: Service) -> float:
    """Return how many errors of ours were noted so far."""
    lines = service.metrics.text().decode().splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.startswith('marigold_errors_total{kind="unf')
    )


@pytest.mark.parametrize(
    "head",
    [
        b"POST /gradio_api/cancel HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /config HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n"
        b"\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"POST /gradio_api/cancel HTTP/1.0\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=["POST", "GET", "HTTP/1.0"],
)
def test_two_lengths_are_refused_and_nothing_after_them_is_answered(page, head):
    with socket.create_connection(("127.0.0.1", page.server_port), timeout=10) as connection:
        connection.sendall(head)
        said = answer_of(connection)
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"must say its length in one way only" in said
    assert said.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "evil.example:7860"}, 421),
        ({"host": "0.0.0.0"}, 421),
        ({"host": "192.0.2.1"}, 421),
        ({"host": "depth.example.org.evil.example"}, 421),
        ({"host": "friends.example"}, 421),
        ({"host": "a.b.friends.example"}, 421),
        ({"x-forwarded-host": "evil.example"}, 421),
        ({"host": "127.0.0.1@evil.example"}, 400),
        ({"host": "[::1"}, 400),
        ({"host": "localhost:7860:7860"}, 400),
        ({"x-forwarded-host": "["}, 400),
        ({"host": "LOCALHOST:1"}, 200),
        ({"host": "localhost."}, 200),
        ({"host": "demo.localhost"}, 200),
        ({"host": "127.8.8.8"}, 200),
        ({"host": "[::1]:7860"}, 200),
        ({"host": "Depth.Example.org"}, 200),
        ({"host": "depth.example.org:8443", "x-forwarded-host": "depth.example.org"}, 200),
        ({"host": "my.friends.example"}, 200),
        ({"x-gradio-server": "http://["}, 200),
    ],
    ids=str,
)
def test_only_the_hosts_of_this_server_are_answered(http, headers, status):
    for path in ("/config", "/healthz", "/metrics"):
        answer = http.get(path, headers=headers)
        if status == 200 and path != "/config":
            continue
        assert answer.status_code == status
        assert "content-security-policy" in answer.headers
        if status != 200:
            assert "host name" in answer.json()["detail"] and "evil" not in answer.text


def test_everywhere_means_every_address_and_the_name_of_this_machine():
    hosts = Service(Configuration(server_name="0.0.0.0")).hosts
    assert all(map(hosts.has, ("192.0.2.7", "[2001:db8::1]", "0.0.0.0", "localhost", socket.gethostname())))
    assert not any(map(hosts.has, ("example.org", "evil.example", "")))
    assert Service(Configuration(server_name="vm.example.org")).hosts.has("VM.example.org")
    assert Service(Configuration(root_path="https://example.org/depth")).hosts.has("example.org")
    assert Service(Configuration(hosts="*")).hosts.has("whatever.example")
    shared = Service(Configuration(share=True)).hosts
    assert not shared.has("abc.gradio.live")
    shared.add("https://abc.gradio.live")
    assert shared.has("abc.gradio.live") and shared.is_named("abc.gradio.live")


FOREIGN = [
    "https://evil.example",
    "null",
    "http://127.0.0.1:1",
    "http://localhost",
    "chrome-extension://abc",
    "x",
]


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_page_of_another_site_can_neither_change_nor_read(http, origin):
    for path in (
        "/gradio_api/queue/join",
        "/gradio_api/call/depth",
        "/gradio_api/upload",
        "/gradio_api/cancel",
    ):
        for kind in ("application/json", "text/plain"):
            posted = http.post(path, content=b"{}", headers={"origin": origin, "content-type": kind})
            assert posted.status_code == 403
            assert "another site" in posted.json()["detail"]
    asked = http.get("/config", headers={"origin": origin})
    before = http.options(
        "/gradio_api/call/depth", headers={"origin": origin, "access-control-request-method": "POST"}
    )
    assert before.status_code in (403, 404)
    for answer in (asked, before, posted):
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_page_itself_and_permitted_sites_can_do_both(page, http):
    own = {"origin": page.local_url.rstrip("/")}
    assert http.post("/gradio_api/reset", json={"event_id": "x"}, headers=own).status_code == 200
    behind = {"origin": "https://depth.example.org", "host": "depth.example.org"}
    assert http.post("/gradio_api/reset", json={"event_id": "x"}, headers=behind).status_code == 200
    friend = {"origin": "https://my.friends.example:8443"}
    read, before = http.get("/config", headers=friend), http.options("/gradio_api/call/depth", headers=friend)
    assert (read.status_code, before.status_code) == (200, 204)
    assert http.post("/gradio_api/reset", json={"event_id": "x"}, headers=friend).status_code == 200
    for answer in (read, before):
        assert answer.headers["access-control-allow-origin"] == friend["origin"]
        assert "Origin" in answer.headers["vary"]
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"x-forwarded-for": "127.0.0.1"},
        {"x-forwarded-proto": "https"},
        {"forwarded": "for=127.0.0.1"},
        {"via": "1.1 x"},
        {"cf-connecting-ip": "127.0.0.1"},
        {"host": "depth.example.org"},
    ],
    ids=str,
)
def test_what_came_through_a_proxy_gets_no_metrics(http, headers):
    assert http.get("/metrics").status_code == 200
    assert http.get("/metrics", headers=headers).status_code == 404


# -- bodies and addresses that make no sense ----------------------------------------------------------

DEEP = b'{"data": ' + b"[" * 500 + b"]" * 500 + b"}"
BODIES = [
    b"",
    b"{",
    b"[]",
    b"1",
    b'"x"',
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    DEEP,
    b'{"data": ["\\ud800"]}',
]
BODIES += [b'{"\\udfff": 1, "data": []}', b'{"data": [' + b"9" * 5000 + b"]}"]
JOINED = [
    {"session_hash": 5, "fn_index": 0},
    {"session_hash": "", "fn_index": 0},
    {"session_hash": ["a"], "fn_index": 0},
    {"session_hash": "a" * 101, "fn_index": 0},
    {"session_hash": "../x", "fn_index": 0},
    {"fn_index": 0},
    *(
        {"session_hash": "s", "fn_index": index}
        for index in (-1, 10**30, 99999, "0", "x", 1.5, True, [], None)
    ),
    {"session_hash": "s", "fn_index": 0, "data": {}},
    {"session_hash": "s", "fn_index": 0, "trigger_id": "x"},
    {"session_hash": "s", "fn_index": 0, "event_id": {}},
]
POSTS = [
    *((path, body) for path in ("queue/join", "call/depth", "call/v2/depth", "run/depth") for body in BODIES),
    *((path, body) for path in ("api/depth", "cancel", "reset") for body in BODIES),
    *(("queue/join", json.dumps({"data": []} | body).encode()) for body in JOINED),
    *((f"{way}/nobody", b'{"data": []}') for way in ("call", "call/v2", "run", "api")),
    *((f"call/{name}", b'{"data": []}') for name in ("%00", "..", "v2", "_take_recipe", "a" * 10_000)),
    ("call/v2/depth", b"{}"),
    ("call/v2/depth", b'{"photo": 1, "nothing": 2}'),
    ("call/depth", b'{"data": "x"}'),
    ("run/depth", b'{"data": [], "fn_index": 99999}'),
    ("cancel", b'{"session_hash": "s", "fn_index": "x", "event_id": "y"}'),
    ("cancel", b'{"session_hash": 7, "fn_index": 0, "event_id": "y"}'),
    ("reset", b'{"event_id": 7}'),
]
GETS = ["call/depth/unknown", "call/v2/depth/unknown", "call/nobody/unknown", "queue/data", "upload_progress"]
GETS += ["queue/data?session_hash=unknown", "heartbeat/" + "a" * 1000, "heartbeat/%ff%00"]


def check_sentence(answer: httpx.Response, sent: bytes = b"") -> None:
    assert 400 <= answer.status_code < 500
    if answer.headers["content-type"].startswith("application/json"):
        sentence = answer.json()["detail"]
        assert isinstance(sentence, str) and sentence
        assert len(sentence) < 300


@pytest.mark.parametrize(("path", "body"), POSTS, ids=lambda part: repr(part)[:50])
def test_a_body_that_makes_no_sense_gets_a_sentence_and_is_no_error_of_ours(http, service, path, body):
    before = noted(service)
    check_sentence(
        http.post(f"/gradio_api/{path}", content=body, headers={"content-type": "application/json"})
    )
    assert noted(service) == before


@pytest.mark.parametrize("path", GETS)
def test_news_of_what_is_not_there_is_a_sentence(http, service, path):
    before = noted(service)
    check_sentence(http.get(f"/gradio_api/{path}"))
    assert noted(service) == before


def test_a_stream_whose_session_goes_away_ends_like_others():
    """Gradio takes a session's messages away from its second reader when the first one leaves."""
    sent, blocks = [], SimpleNamespace(_queue=SimpleNamespace(pending_messages_per_session={"s": 1}))

    async def gradio(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            raise HTTPException(404)
        except HTTPException as error:
            raise RuntimeError("Caught handled exception, but response already started.") from error

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/gradio_api/queue/data", "headers": []}
    scope |= {"query_string": b"session_hash=s", "app": SimpleNamespace(blocks=blocks)}
    asyncio.run(CallFilter(gradio)(scope, None, send))
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


@pytest.mark.parametrize("pause_s", [10, 0.05], ids=["still", "trickle"])
def test_an_event_that_does_not_arrive_gets_a_sentence(page, monkeypatch, pause_s):
    monkeypatch.setattr(middleware, "EVENT_S", 0.5)
    head = b"POST /gradio_api/cancel HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", page.server_port), timeout=10) as connection:
        connection.sendall(head)
        connection.settimeout(pause_s)
        for _ in range(200):
            try:
                said = connection.recv(4000)
                break
            except TimeoutError:
                connection.sendall(b" ")
        connection.settimeout(10)
        said += answer_of(connection)
    assert said.startswith(b"HTTP/1.1 408 ") and b"did not arrive in time" in said


def test_half_sent_events_hold_a_bounded_part_of_memory_and_leave_others_alone(page, http, monkeypatch):
    monkeypatch.setattr(middleware, "DRAIN_S", 0.2)
    head = b"POST /gradio_api/cancel HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n{"
    place = ("127.0.0.1", page.server_port)
    with ExitStack() as stack:
        greedy = [
            stack.enter_context(socket.create_connection(place, timeout=10, source_address=("127.0.0.9", 0)))
            for _ in range(9)
        ]
        for connection in greedy[:8]:  # an eighth of 64 MB
            connection.sendall(head)
        time.sleep(0.3)
        greedy[8].sendall(head)
        said = answer_of(greedy[8])
        assert said.startswith(b"HTTP/1.1 503 ") and b"try again in a moment" in said
        event = {"data": [], "fn_index": first_event(page), "session_hash": "bystander"}
        assert http.post("/gradio_api/queue/join", json=event).status_code == 200
    again = socket.create_connection(place, timeout=10, source_address=("127.0.0.9", 0))
    with again:  # what was held is free
        again.sendall(head.replace(b"1000000", b"2") + b"}")
        assert not again.recv(4000).startswith(b"HTTP/1.1 503 ")


# -- sessions -----------------------------------------------------------------------------------------


def first_event(page) -> int:
    """Return an event that costs nothing and needs no photo."""
    return next(index for index, fn in page.fns.items() if fn.fn is not None and fn.queue)


class OpenPage:
    """The stream that Gradio's page holds for as long as it is open."""

    def __init__(self, page, session: str) -> None:
        self._connection = socket.create_connection(("127.0.0.1", page.server_port), timeout=10)
        path = f"/gradio_api/heartbeat/{session}".encode()
        self._connection.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        said = b""
        while b"ALIVE" not in said:
            said += self._connection.recv(4000)

    def close(self) -> None:
        self._connection.close()


def join(http, page, session: str) -> httpx.Response:
    body = {"data": [], "fn_index": first_event(page), "session_hash": session}
    answer = http.post("/gradio_api/queue/join", json=body)
    while "ueue is full" in answer.text:
        time.sleep(0.05)
        answer = http.post("/gradio_api/queue/join", json=body)
    return answer


def test_a_flood_of_new_sessions_leaves_a_page_in_use_its_depth(page, http, tmp_path, monkeypatch):
    photo = draw_photo(tmp_path).read_bytes()
    with Visit(page.local_url) as visit:
        open_page, shown = OpenPage(page, visit.session), visit.open_page()
        taken = visit.upload("a.jpg", photo)
        visit.click(shown, shown.event(takes="photo", gives="photo-notes"), photo=taken)
        visit.click(shown, shown.event(takes="depth-checkpoint", gives="compare"))
        # As 400 are to the 300 that are kept; each takes a tenth of a second.
        monkeypatch.setattr(page.state_holder, "capacity", queue.MAX_SESSIONS // 20)
        assert {join(http, page, f"flood{number}").status_code for number in range(20)} == {200}
        assert len(page.state_holder.session_data) <= queue.MAX_SESSIONS // 20
        npy, *_ = visit.click(shown, shown.event(takes="", gives="download-npy"))
        assert len(visit.fetch(npy["value"])) > 100_000
        open_page.close()


def test_a_session_of_a_moment_ago_is_not_forgotten_for_those_silent_for_longer(page):
    kept = queue.Sessions()
    kept.blocks, kept.capacity = page, 20
    for number in range(20):
        kept[f"left{number}"]
        kept.opened(f"left{number}")
        kept.closed(f"left{number}")
    for number in range(4):  # programs that begin with an upload: no stream is open yet
        kept[f"new{number}"]
    assert list(kept.session_data) == [*(f"left{n}" for n in range(4, 20)), *(f"new{n}" for n in range(4))]


def test_where_all_pages_are_open_a_new_visitor_reads_a_sentence(page, http, tmp_path):
    with ExitStack() as stack:
        names = [f"open{number}" for number in range(3)]
        for name in names:
            stack.callback(OpenPage(page, name).close)
            assert join(http, page, name).status_code == 200
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(page.state_holder, "capacity", 3)
        refused = join(http, page, "newcomer")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "60")
        assert "as many visitors as this server takes" in refused.json()["detail"]
        assert join(http, page, "open1").status_code == 200
        with Visit(page.local_url) as visit, pytest.raises(RefusedError, match="as many visitors"):
            visit.request("depth", photo=visit.upload("a.jpg", draw_photo(tmp_path).read_bytes()))
    assert eventually(lambda: join(http, page, "newcomer").status_code == 200)

"""Who may ask the viewer, and what every response forbids."""

from __future__ import annotations

import pytest

from spiral.viewer.access import AccessCheck
from viewed_runs import TOKEN, made_run, viewing

EVERYTHING = ("/", "/assets/app.js", "/api/runs", "/api/runs/0/episodes", "/api/events", "/nothing")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with viewing(made_run(tmp_path_factory.mktemp("runs") / "mine", steps=1, episodes=1)) as found:
        yield found


@pytest.mark.parametrize("path", EVERYTHING)
def test_without_the_token_nothing_is_answered(client, path):
    for token in (None, "wrong", TOKEN[:-1], f"{TOKEN}x", ""):
        status, message = client.error(path, token=token)
        assert (status, message) == (401, "this page needs its token; open the address that `spiral view` printed")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "192.168.1.7:80", "", "["]
)
def test_another_host_is_refused_with_the_token_too(client, host):
    status, message = client.error("/api/runs", Host=host)
    assert status == 403
    assert "open the address that `spiral view` printed" in message
    assert client.error(f"/?token={TOKEN}", token=None, Host=host)[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost:8080", "LOCALHOST", "[::1]:99"])
def test_this_machine_by_its_names_and_through_a_tunnel(client, host):
    assert client.ask("/api/runs", Host=host)[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:PORT", "http://127.0.0.1:1", ""])
def test_another_origin_is_refused(client, origin):
    status, message = client.error("/api/runs", Origin=origin.replace("PORT", str(client.port)))
    assert (status, message) == (403, "another web site sent this request, and only the page itself may ask")
    assert client.ask("/api/runs", Origin=f"http://127.0.0.1:{client.port}")[0] == 200


def test_the_address_with_the_token_sets_a_cookie_that_other_sites_cannot_use(client):
    status, headers, body = client.ask(f"/?token={TOKEN}", token=None)
    assert (status, headers["location"], body) == (303, "/", b"")
    cookie, *attributes = headers["set-cookie"].split("; ")
    assert set(attributes) == {"Path=/", "HttpOnly", "SameSite=Strict"}
    assert client.ask("/api/runs", token=None, Cookie=cookie)[0] == 200
    assert client.ask("/api/runs", token=None, Cookie=f"other=1; {cookie}")[0] == 200
    assert client.ask("/api/runs", token=None, Cookie=cookie + "x")[0] == 401
    assert client.error("/?token=wrong", token=None)[0] == 401
    assert client.error(f"/api/runs?token={TOKEN}", token=None)[0] == 401


def test_every_answer_forbids_foreign_code(client):
    for path, token in (("/api/runs", TOKEN), ("/api/runs", None), ("/nothing", TOKEN)):
        _, headers, _ = client.ask(path, token=token)
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert headers["cache-control"] == "no-store"


def test_paths_out_of_the_assets_are_not_served(client):
    for path in ("/assets/../app.py", "/assets/..%2fapp.py", "/assets/%2e%2e/app.py", "/assets//etc/passwd"):
        status, _, body = client.ask(path)
        assert (status, b"fastapi" in body, b"root:" in body) == (404, False, False)


def test_large_and_unmeasured_bodies_are_refused(client):
    assert client.error("/api/play", method="POST", body={"text": "x" * 70_000})[0] == 413
    assert client.ask("/api/runs", Transfer_Encoding="chunked")[0] == 413


@pytest.mark.parametrize(
    ("listening", "host", "own"),
    [
        ("0.0.0.0", "192.168.1.7:80", True),
        ("0.0.0.0", "evil.example:80", False),
        ("box.lan", "box.lan:80", True),
        ("box.lan", "other.lan", False),
        ("127.0.0.1", "192.168.1.7", False),
        ("::1", "[::1]:5", True),
    ],
)
def test_a_server_that_others_reach_has_addresses_and_its_own_name(listening, host, own):
    check = AccessCheck(lambda *_: None, token=TOKEN, host=listening)
    assert check._is_own(host) is own

"""Downloading from servers that behave, break off, forget about ranges, send rubbish, or never stop."""

import errno
import hashlib
import http.server
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from xnor_ref.datasets import download as module
from xnor_ref.datasets.download import RemoteFile, download
from xnor_ref.errors import DatasetError, InputError, OutputError

CONTENT = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.content` the way `server.behaviour` says; keeps what was asked in `server.requests`."""

    def do_GET(self):
        server = self.server
        server.requests.append(dict(self.headers))
        behaviour = server.behaviours.pop(0) if server.behaviours else server.behaviour
        content, status, start = server.content, 200, 0
        if isinstance(behaviour, int):
            self.send_error(behaviour)
            return
        if behaviour == "redirect to a file":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
            return
        asked = self.headers.get("Range")
        if asked and behaviour not in ("ignores ranges", "truncates and ignores ranges"):
            fits = self.headers.get("If-Range") in (None, server.etag)
            if fits:
                start, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
        body = content[start:]
        self.send_response(status)
        if status == 206:
            shown = start + 1 if behaviour == "wrong part" else start
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        if behaviour != "no length":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if behaviour in ("truncates", "truncates and ignores ranges"):
            body = body[:100_000]
        elif behaviour == "truncates at once":
            body = b""
        elif behaviour == "stalls":
            self.wfile.write(body[:100_000])
            self.wfile.flush()
            server.stalled.wait(10)
            return
        try:
            self.wfile.write(body)
        except ConnectionError:
            pass  # the other side had enough

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.etag, server.behaviour = CONTENT, None, "well"
        server.behaviours, server.requests, server.stalled = [], [], threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}/set.zip"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.stalled.set()
        server.shutdown()
        thread.join()


def fetch(server, folder, **keywords):
    remote = RemoteFile(server.url, keywords.pop("size", len(CONTENT)), keywords.pop("md5", MD5))
    download(remote, folder / "set.zip", pause=0.0, **keywords)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_all_in_one_go(server, tmp_path):
    calls = []
    fetch(server, tmp_path / "new" / "folder", progress=lambda *call: calls.append(call))
    assert (tmp_path / "new" / "folder" / "set.zip").read_bytes() == CONTENT
    assert names(tmp_path / "new" / "folder") == ["set.zip"]
    assert calls[-1] == ("downloading set.zip", len(CONTENT), len(CONTENT))
    assert "Range" not in server.requests[0]


def test_without_a_length(server, tmp_path):
    server.behaviour = "no length"
    fetch(server, tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_a_partial_file_is_gone_on_with(server, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(CONTENT[:123_456])
    fetch(server, tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert [request["Range"] for request in server.requests] == ["bytes=123456-"]
    assert names(tmp_path) == ["set.zip"]


def test_a_server_that_truncates_is_asked_again(server, tmp_path):
    server.behaviour = "truncates"
    fetch(server, tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert [request.get("Range") for request in server.requests] == [None, "bytes=100000-", "bytes=200000-"]


def test_the_etag_guards_the_rest(server, tmp_path):
    server.etag, server.behaviours = '"one"', ["truncates"]
    fetch(server, tmp_path)
    assert server.requests[1]["If-Range"] == '"one"'
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_is_followed_from_the_start(server, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(b"x" * 123_456)
    server.behaviour = "ignores ranges"
    fetch(server, tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_server_that_truncates_and_ignores_ranges_is_given_up(server, tmp_path):
    server.behaviour = "truncates and ignores ranges"
    with pytest.raises(DatasetError, match=r"after 3 tries with almost no data .*100000 of 300000 bytes are kept"):
        fetch(server, tmp_path, tries=3)
    assert names(tmp_path) == ["set.zip.part"]
    assert len(server.requests) == 4  # one that got somewhere, three that did not


def test_another_part_than_asked_starts_over(server, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(CONTENT[:1000])
    server.behaviours = ["wrong part"]
    fetch(server, tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert "Range" not in server.requests[1]


def test_range_not_satisfiable_starts_over(server, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(CONTENT[:1000])
    server.behaviours = [416]
    fetch(server, tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_a_part_that_is_too_long_starts_over(server, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(CONTENT + b"more")
    fetch(server, tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_a_complete_part_needs_no_server(tmp_path):
    (tmp_path / "set.zip.part").write_bytes(CONTENT)
    download(RemoteFile("http://127.0.0.1:9/set.zip", len(CONTENT), MD5), tmp_path / "set.zip")
    assert names(tmp_path) == ["set.zip"]


def test_wrong_bytes_are_removed(server, tmp_path):
    server.content = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(DatasetError, match=f"expected {MD5}"):
        fetch(server, tmp_path)
    assert names(tmp_path) == []


def test_a_wrong_start_from_an_earlier_time_is_removed_too(server, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(b"x" * 1000)
    with pytest.raises(DatasetError, match="the file was removed"):
        fetch(server, tmp_path)
    assert names(tmp_path) == []
    fetch(server, tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("length", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_another_size_is_refused_before_it_is_fetched(server, tmp_path, length):
    server.content = (CONTENT + b"x")[:length]
    with pytest.raises(DatasetError, match=f"offers {length} bytes"):
        fetch(server, tmp_path)
    assert names(tmp_path) == []


def test_more_bytes_than_expected_are_not_taken(server, tmp_path):
    server.content, server.behaviour = CONTENT * 20, "no length"
    with pytest.raises(DatasetError, match="longer than the expected 300000 bytes"):
        fetch(server, tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_refusals_are_final(server, tmp_path, status):
    server.behaviour = status
    with pytest.raises(DatasetError, match=f"cannot download .*{status}"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1


def test_server_trouble_is_tried_again(server, tmp_path):
    server.behaviours = [503, 500, 429]
    fetch(server, tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_lasting_server_trouble_ends(server, tmp_path):
    server.behaviour = 503
    with pytest.raises(DatasetError, match=r"after 4 tries with almost no data.*503"):
        fetch(server, tmp_path, tries=4)
    assert len(server.requests) == 4


def test_a_stalled_connection_times_out_and_goes_on(server, tmp_path):
    server.behaviours = ["stalls"]
    fetch(server, tmp_path, timeout=0.2)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert server.requests[1]["Range"] == "bytes=100000-"


def test_nobody_there(tmp_path):
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_port
    with pytest.raises(DatasetError, match=r"failed after 2 tries with almost no data .*0 of 5 bytes"):
        download(RemoteFile(f"http://127.0.0.1:{port}/x", 5, MD5), tmp_path / "set.zip", tries=2, pause=0)


ADDRESSES = ["file:///etc/passwd", "ftp://127.0.0.1/x", "/etc/passwd", "http://[bad/x", "http:///x", "http://h:99999/x"]
ADDRESSES += [
    "http://127.0.0.1:9/d\u00e4ten.zip",
    "http://ho..st/x.zip",
    f"http://{'a' * 70}/x",
    "http://127.0.0.1:b/x",
]


@pytest.mark.parametrize("url", ADDRESSES)
def test_only_http(tmp_path, url):
    with pytest.raises(InputError, match=r"only http and https|is not a valid address"):
        download(RemoteFile(url, 5, MD5), tmp_path / "set.zip")
    assert names(tmp_path) == []


def test_a_redirect_cannot_leave_http(server, tmp_path):
    server.behaviour = "redirect to a file"
    with pytest.raises(DatasetError, match=r"set\.zip"):
        fetch(server, tmp_path, tries=2)
    assert not (tmp_path / "set.zip").exists()


def test_a_full_disk_seen_before(server, tmp_path, monkeypatch):
    class Usage:
        free = 1000

    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(OutputError, match="0 MB are free"):
        fetch(server, tmp_path)


def test_a_full_disk_while_writing_keeps_what_arrived(server, tmp_path, monkeypatch):
    real = module._write_all

    def full(file, data):
        real(file, data[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_all", full)
        with pytest.raises(OutputError, match="No space left"):
            fetch(server, tmp_path)
    assert (tmp_path / "set.zip.part").read_bytes() == CONTENT[:1000]
    fetch(server, tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        fetch(server, tmp_path / "file")


@contextmanager
def locked(path):
    fcntl = pytest.importorskip("fcntl")
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_two_at_once_do_not_mix(server, tmp_path):
    with locked(tmp_path / "set.zip.part"), pytest.raises(DatasetError, match="another process is downloading"):
        fetch(server, tmp_path)
    fetch(server, tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT

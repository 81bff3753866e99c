"""Programs of any language: how they are asked, what they may answer, and every way to fail."""

import io
import os
import sys
import tempfile
import time
import zipfile

import numpy as np
import pytest

from xnor_ref.conformance import Crashed, program
from xnor_ref.conformance.basics.roles import Late
from xnor_ref.conformance.foreign import npz
from xnor_ref.errors import InputError

X = np.float32([[1, -2], [3, 4], [5, 6]])


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Makes a shell program, and keeps its temporary files in sight."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "tmp").mkdir()
    np.save(tmp_path / "two.npy", np.arange(2))

    def write(text):
        path = tmp_path / "mine.sh"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    yield write
    assert not list((tmp_path / "tmp").iterdir())


def ask(command, *arguments, role="alpha", named=None, **how):
    foreign = program(command, **how)
    try:
        return foreign.for_role(role)(*arguments, **named or {})
    finally:
        foreign.close()


def test_a_request_holds_all_arguments_as_documented(script, tmp_path):
    command = script(f'cp "$2" {tmp_path}/kept.npz; echo "$1" > {tmp_path}/role; cp {tmp_path}/two.npy "$3"')
    x, weight = np.ones((1, 2, 3, 3), ">f4")[:, :, ::-1], np.ones((4, 2, 1, 1), np.float32)
    call = {"groups": 2, "dilation": (1, 2), "mode": "fast"}
    assert ask(command, x, weight, (1, 2), (0, 3), -1, role="conv2d", named=call).tolist() == [0, 1]
    assert (tmp_path / "role").read_text() == "conv2d\n"
    with np.load(tmp_path / "kept.npz") as kept:
        assert list(kept) == ["x", "weight", "stride", "padding", "pad_value", "groups", "dilation", "mode"]
        assert kept["x"].dtype == "<f4" and np.array_equal(kept["x"], x) and kept["weight"].shape == (4, 2, 1, 1)
        assert kept["padding"].tolist() == [[0, 0], [3, 3]] and kept["stride"].tolist() == [1, 2]
        assert {kept[name].dtype.str for name in ("stride", "padding", "pad_value", "groups", "dilation")} == {"<i8"}
        assert kept["pad_value"] == -1 and kept["pad_value"].shape == () and kept["mode"].tobytes() == b"fast"
    same = script(f'cp "$2" {tmp_path}/kept.npz; cp {tmp_path}/two.npy "$3"')
    ask(same, x, weight, (1, 2), "same", -1, role="conv2d")
    with np.load(tmp_path / "kept.npz") as kept:
        assert kept["padding"].tolist() == [[-1, -1], [-1, -1]]


def test_each_array_lies_at_a_multiple_of_64_bytes_uncompressed_and_in_the_same_bytes():
    arrays = {"x": X, "a_longer_name": np.arange(3), "pad_value": np.int64(1), "empty": np.zeros((0, 2))}
    data = npz.npz(arrays)
    assert data == npz.npz(arrays)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member, (name, array) in zip(archive.infolist(), arrays.items(), strict=True):
            header = data[member.header_offset :][:30]
            begin = (
                member.header_offset
                + 30
                + int.from_bytes(header[26:28], "little")
                + int.from_bytes(header[28:30], "little")
            )
            assert member.filename == f"{name}.npy" and begin % 64 == 0 and member.compress_type == zipfile.ZIP_STORED
            assert int.from_bytes(header[18:22], "little") == member.file_size  # no descriptor after the data
            first = begin + 10 + int.from_bytes(data[begin + 8 : begin + 10], "little")
            assert first % 64 == 0 and data[first : first + array.nbytes] == array.tobytes()
    found = npz.read(data, "it")
    assert all(
        np.array_equal(found[name], array) and found[name].shape == array.shape for name, array in arrays.items()
    )


@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed], ids=lambda save: save.__name__)
@pytest.mark.parametrize(
    "array", [X, np.asfortranarray(X), X.astype(">f8"), X > 0, np.int8(3), np.zeros((0, 3))], ids=repr
)
def test_answers_are_read_as_numpy_writes_them(save, array, script, tmp_path):
    with open(tmp_path / "answer", "wb") as file:
        save(file, array)
    got = ask(script(f'cp {tmp_path}/answer "$3"'), X)
    assert got.shape == array.shape and got.dtype == array.dtype.newbyteorder("=") and np.array_equal(got, array)


@pytest.mark.parametrize("save", ["np.save(response, 2 * x)", "np.savez(response, 2 * x)"])
def test_numpy_writes_answers_under_the_name_that_is_given(tmp_path, save):
    text = (
        f"import sys\nimport numpy as np\n_, request, response = sys.argv[1:]\nx = np.load(request)['weight']\n{save}\n"
    )
    (tmp_path / "mine.py").write_text(text)
    assert np.array_equal(ask([sys.executable, tmp_path / "mine.py"], X), 2 * X)


@pytest.mark.parametrize(
    "text, message",
    [
        ("kill -SEGV $$", r"died of signal 11 \(SIGSEGV\)$"),
        ("echo this is why >&2; exit 3", "exited with status 3; its output: this is why$"),
        ("echo nothing", "wrote no answer to its response file; its output: nothing$"),
        ("mkdir $3", "wrote no answer"),
        ("printf hello > $3", r"invalid answer: response.npy is not a .* begins with b'hello'"),
        (": > $3", "it is empty"),
        ("head -c 100 two.npy > $3", "is not a readable .npy file"),
        ("head -c 140 two.npy > $3", "needs 16 bytes after the header, but there are 12"),
        (
            "(head -c 60 two.npy; printf '(9999999999999,), }'; tail -c +80 two.npy) > $3",
            "is not a readable .npy file",
        ),
        ("cp objects.npy $3", r"its elements are '\|O'; they must be booleans, integers or floats"),
        ("cp many.npz $3", "must hold one array, or one named result; it holds a, b$"),
        ("head -c 90 many.npz > $3", "is a damaged .npz file"),
        ("head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 1", r"its output: \.\.\.x{400}$"),
    ],
)
def test_a_program_that_fails_is_told_with_what_it_said(script, tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    np.save("objects.npy", np.array([None, 1]), allow_pickle=True)
    np.savez("many.npz", a=X, b=X)
    with pytest.raises(Crashed, match=message):
        ask(script(text), X)


@pytest.mark.parametrize("keep", [False, True])
def test_a_program_that_waits_for_ever_is_stopped_with_what_it_started(script, tmp_path, keep):
    command = script(f"sleep 60 & echo $! > {tmp_path}/pid; exec sleep 60")
    with pytest.raises(Late, match=r"did not answer within 1\.5 s and was stopped"):
        ask(command, X, timeout=1.5, keep=keep)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _runs(pid):
        time.sleep(0.01)
    assert not _runs(pid)


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_a_program_leaves_running_does_not_hold_up_its_answer(script, tmp_path):
    begin = time.monotonic()
    assert ask(script(f'cp {tmp_path}/two.npy "$3"; sleep 60 &'), X).tolist() == [0, 1]
    assert time.monotonic() - begin < 30


KEPT = """echo $$ >> {0}/pids
while read role request response; do
  echo $role; cp {0}/two.npy "$response"; echo done
done"""


def test_a_program_can_be_kept_running(script, tmp_path):
    foreign = program([script(KEPT.format(tmp_path)), "--some", "option"], keep=True)
    for factor in range(3):
        assert foreign.for_role("alpha")(factor * X).tolist() == [0, 1]
    foreign.close()
    assert len((tmp_path / "pids").read_text().split()) == 1


def test_a_program_that_ends_early_is_started_again(script, tmp_path):
    answer = f'read role request response; cp {tmp_path}/two.npy "$response"; echo done'
    foreign = program(script(f"echo x >> {tmp_path}/starts; {answer}; read more; exit 4"), keep=True)
    call = foreign.for_role("alpha")
    assert call(X).tolist() == [0, 1]
    for _ in range(2):
        with pytest.raises(Crashed, match="exited with status 4 before it printed done"):
            call(2 * X)
    assert call(3 * X).tolist() == [0, 1] and (tmp_path / "starts").read_text() == "x\nx\n"
    foreign.close()


@pytest.mark.parametrize(
    "command, message",
    [
        ("no/such/program", "'no/such/program' is not an executable file"),
        ("", "command must not be empty"),
        ("'open", "cannot be read: No closing quotation"),
        (3, "cannot be read"),
        (["a\0b"], "command must not be empty"),
    ],
)
def test_a_command_that_is_none_is_refused(command, message):
    with pytest.raises(InputError, match=message):
        program(command)
    with pytest.raises(InputError, match="timeout must be a number of seconds above 0, got -1"):
        program("true", timeout=-1)


def test_a_file_of_another_kind_than_its_first_line_says_cannot_be_started(tmp_path):
    (tmp_path / "mine").write_bytes(os.urandom(100))
    (tmp_path / "mine").chmod(0o755)
    with pytest.raises(InputError, match="mine cannot be started: "):
        ask(str(tmp_path / "mine"), X)

"""Golden vectors: the same bytes each time, at all the edges, and answers to them are judged as the kit judges."""

import filecmp
import json
import shutil

import numpy as np
import pytest

from xnor_ref import conformance as c
from xnor_ref.conformance.basics import oracle
from xnor_ref.conformance.edges import ROLES
from xnor_ref.conformance.foreign import npz
from xnor_ref.conformance.vectors import INDEX
from xnor_ref.errors import InputError, OutputError


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden") / "golden"
    counts = c.export_golden(folder)
    assert set(counts) == set(ROLES) == set(c.ROLES) - {"layer"} and min(counts.values()) > 5
    return folder


@pytest.fixture
def golden(exported, tmp_path):
    """A copy to answer in."""
    return shutil.copytree(exported, tmp_path / "golden")


def cases_of(folder, role):
    return {path: npz.read_file(path) for path in sorted((folder / role).glob("*.npz"))}


def answer(folder, function, *roles):
    for role in roles:
        for path, arrays in cases_of(folder, role).items():
            np.save(path.with_suffix(".answer.npy"), function(arrays))


def test_the_files_are_small_and_have_the_same_bytes_each_time(exported, tmp_path):
    again = tmp_path / "again"
    c.export_golden(again, roles=("conv2d", "dot"))
    other = tmp_path / "other"
    c.export_golden(other, roles=("dot",), seed=1)
    names = sorted(path.relative_to(again) for path in again.rglob("*.npz"))
    same, different, missing = filecmp.cmpfiles(exported, again, names, shallow=False)
    assert len(same) == len(names) and not different and not missing
    assert sum(path.stat().st_size for path in exported.rglob("*") if path.is_file()) < 1_000_000
    assert any(
        (exported / name).read_bytes() != (other / name).read_bytes() for name in names if name.parent.name == "dot"
    )


def test_each_case_holds_its_arguments_in_order_and_the_result_of_the_definition(exported):
    index = json.loads((exported / INDEX).read_text())
    assert index["conventions"]["sign_of_zero"] == 1 and index["conventions"]["bit_order"] == "least first"
    for role, entry in index["roles"].items():
        found = cases_of(exported, role)
        assert [f"{role}/{path.name}" for path in found] == [case["file"] for case in entry["cases"]]
        names = c.ROLES[role].parameters
        assert all(tuple(arrays)[: len(names)] == names and "expected" in arrays for arrays in found.values())
    for arrays in cases_of(exported, "conv2d").values():
        x, weight, stride, padding = (arrays[name] for name in ("x", "weight", "stride", "padding"))
        want = oracle.sign_convolution(x, weight, stride, padding.tolist(), int(arrays["pad_value"]))
        np.testing.assert_array_equal(arrays["expected"], want)
    for arrays in cases_of(exported, "pack").values():
        want = [oracle.words(row >= 0) for row in arrays["x"]]
        np.testing.assert_array_equal(arrays["expected"], np.array(want, np.uint64))
    for arrays in cases_of(exported, "alpha").values():
        assert np.all(np.abs(arrays["expected"] - oracle.weight_scale(arrays["weight"])) <= arrays["allowed"])


def test_the_cases_lie_at_all_the_edges(exported):
    convs = list(cases_of(exported, "conv2d").values())
    channels = {arrays["x"].shape[1] for arrays in convs}
    assert {1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 192, 256} <= channels
    assert max(arrays["expected"].max() for arrays in convs) > 2**16
    assert {int(arrays["pad_value"]) for arrays in convs} == {0, 1, -1}
    assert len({arrays["weight"].shape[2:] for arrays in convs}) > 10 and {len(a["x"]) for a in convs} == {1, 2, 3}
    values = np.concatenate([arrays["x"].ravel() for arrays in convs])
    assert np.any((values == 0) & np.signbit(values)) and np.any(values[~np.signbit(values)] == 0)
    assert np.any((values != 0) & (np.abs(values) < 1e-38)) and np.any(np.abs(values) > 1e38)
    assert any(tuple(a["padding"].ravel()) != (0, 0, 0, 0) and a["stride"].max() > 1 for a in convs)


def test_right_answers_pass_and_name_the_conventions(golden):
    roles = [role for role in ROLES if role != "ste"]
    answer(golden, lambda arrays: arrays["expected"], *roles)
    report = c.check_golden(golden)
    assert report.passed and {result.role for result in report.results} == set(roles)
    assert set(report.not_tested) == {"ste", "layer"}
    assert (
        report.conventions["conv2d"]["sign_of_zero"] == 1 and report.conventions["pack"]["bit_order"] == "least first"
    )


def test_another_convention_is_named_and_refused_where_it_is_demanded(golden):
    answer(golden, lambda arrays: np.sign(arrays["x"]) @ np.sign(arrays["weight"]).T, "linear")
    report = c.check_golden(golden)
    assert report.passed and report.conventions["linear"]["sign_of_zero"] == 0
    report = c.check_golden(golden, sign_of_zero=1)
    (failure,) = report.failures
    assert failure.kind == "demand" and "sign_of_zero" in failure.diagnosis


def test_a_wrong_missing_or_unreadable_answer_is_named_by_its_file(golden):
    answer(golden, lambda arrays: arrays["expected"], "conv2d", "pack", "dot")
    path = golden / "conv2d" / "030.npz"
    np.save(path.with_suffix(".answer.npy"), npz.read_file(path)["expected"] + 2)
    (golden / "pack" / "003.answer.npy").unlink()
    (golden / "dot" / "004.answer.npy").write_text("hello")
    report = c.check_golden(golden)
    messages = {failure.role: failure.message for failure in report.failures}
    assert "conv2d/030.npz" in messages["conv2d"] and "answers are wrong: conv2d/030.npz" in messages["conv2d"]
    assert "pack/003.npz: it has no answer" in messages["pack"]
    assert "dot/004.npz: 004.answer.npy is not a .npy or .npz file" in messages["dot"]


def test_restrictions_and_conventions_hold_for_files_too(tmp_path):
    limits = {"channels": c.multiple_of(32), "kernels": (1, 3), "paddings": 0, "pad_values": (0,), "batch": 1}
    c.export_golden(tmp_path / "golden", roles=("conv2d", "linear"), form="disagreements", **limits)
    for arrays in cases_of(tmp_path / "golden", "conv2d").values():
        assert arrays["x"].shape[1] % 32 == 0 and set(arrays["weight"].shape[2:]) <= {1, 3} and len(arrays["x"]) == 1
        assert not arrays["padding"].any() and arrays["expected"].min() >= 0
    answer(tmp_path / "golden", lambda arrays: arrays["expected"], "conv2d")
    assert c.check_golden(tmp_path / "golden").passed
    with pytest.raises(InputError, match="is not empty"):
        c.export_golden(tmp_path / "golden")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda folder: (folder / INDEX).unlink(), "holds no golden vectors"),
        (lambda folder: (folder / INDEX).write_text("{"), "is damaged"),
        (lambda folder: (folder / INDEX).write_text("[]"), "is not an index of golden vectors"),
        (lambda folder: edit(folder, version=2), "has version 2"),
        (lambda folder: edit(folder, roles={"conv2d": 3}), "is damaged"),
        (lambda folder: edit(folder, roles={"conv2d": {"cases": [{"file": "../../x.npz"}]}}), "is damaged"),
        (lambda folder: edit(folder, restrictions=3), "is damaged"),
        (lambda folder: edit(folder, conventions={"form": "thing"}), "form must be one of"),
        (lambda folder: None, "has no answers; the answer to 000.npz would be .*conv2d/000.answer"),
    ],
)
def test_a_folder_that_cannot_be_checked_says_why(golden, change, message):
    change(golden)
    with pytest.raises(InputError, match=message):
        c.check_golden(golden)


def edit(folder, **changes):
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(index | changes))


def test_what_cannot_be_exported_is_refused(tmp_path):
    with pytest.raises(InputError, match="'layer' has no golden vectors"):
        c.export_golden(tmp_path / "a", roles=("layer",))
    with pytest.raises(InputError, match="colour"):
        c.export_golden(tmp_path / "a", colour=3)
    with pytest.raises(InputError, match="channels first"):
        c.export_golden(tmp_path / "a", layout="NHWC HWIO")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        c.export_golden(tmp_path / "file" / "golden")

"""The kit itself: faults are found, conventions named, correct implementations not blamed; and what it says of them."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.conformance import soak
from tests.conformance.fakes import CONVENTIONS, FAULTS, Fake
from xnor_ref import conformance as c
from xnor_ref import steady
from xnor_ref.conformance.basics import bits, definitions, oracle
from xnor_ref.conformance.basics.conventions import NAMES, VALUES, Conventions
from xnor_ref.conformance.basics.restrictions import Restrictions
from xnor_ref.conformance.basics.roles import ROLES
from xnor_ref.conformance.trying import properties, running
from xnor_ref.conformance.trying.subject import Subject
from xnor_ref.errors import InputError, InputTypeError

F32 = np.float32
SEED = 1603


def ids(planted):
    return f"{planted.name} ({', '.join(planted.roles)})"


def planted(name):
    """The functions of a program with a bug."""
    return next(one for one in FAULTS if one.bug and one.name == name).implementation()


def signs(x):
    return np.where(x >= 0, 1, -1)


def linear(x, weight):
    return signs(x) @ signs(weight).T


# --- what it is for


SOAKED = [pytest.param(planted, marks=pytest.mark.soak if index % 2 else ()) for index, planted in enumerate(FAULTS)]


@pytest.mark.parametrize("planted", SOAKED, ids=ids)
def test_a_fault_is_found(planted):
    assert soak.found(planted, SEED)


def test_a_fault_at_one_length_hides_no_convention():
    """The kit itself calls with 33 to find out the conventions, of which none explains what it gets."""

    def pack(x):
        words = np.packbits(~np.signbit(x), axis=1)
        return words[:, :-1] if x.shape[1] == 33 else words

    report = c.Kit(pack=pack).run(20, SEED)
    (failure,) = report.failures
    assert failure.message == "pack: shape (1, 4) of 8-bit words, too few for 1 rows of 33 bits"


@pytest.mark.parametrize("planted", CONVENTIONS, ids=ids)
def test_a_convention_is_named_and_not_blamed(planted):
    kit = soak.kit_of(planted)
    longest = [name for _, name in kit.property_names() if "longest" in name and "summation" in planted.shows]
    report = kit.run(100, SEED, names=longest)
    assert report.passed and soak.shown(planted, report), str(report.conventions)


def test_correct_implementations_are_not_blamed():
    assert [said for seed in range(5) if (said := soak.blamed(seed, 5))] == []


@pytest.mark.soak
def test_more_correct_implementations_are_not_blamed():
    assert [said for seed in range(1000, 1050) if (said := soak.blamed(seed, 10))] == []


def test_a_layer_with_its_own_weight():
    weight = np.random.default_rng(0).standard_normal((5, 3, 3, 2), F32)
    fake = Fake(sign_of_zero=-1, weight_sign_of_zero=-1)

    def layer(x):
        return fake.conv2d(x, weight, (2, 1), (1, 0), -1)

    made = c.Layer(layer, weight, stride=(2, 1), padding=(1, 0), pad_value=-1)
    report = c.Kit(layer=made).run(40, SEED)
    assert report.passed and report.conventions["layer"]["sign_of_zero"] == -1, str(report)
    wrong = c.Layer(layer, weight, stride=(1, 1), padding=(1, 0), pad_value=-1)
    assert not c.Kit(layer=wrong).run(40, SEED, shrink=False).passed
    dense = c.Kit(layer=c.Layer(lambda x: linear(x, weight[:, :, 0, 0]), weight[:, :, 0, 0])).run(20, SEED)
    assert dense.passed and dense.conventions["layer"]["sign_of_zero"] == 1


def test_options_are_further_keywords_of_which_each_value_is_tried():
    def conv(x, weight, stride, padding, pad_value, algorithm):
        tried.add(algorithm)
        wrong = algorithm == "fast" and x.shape[1] > 64
        return Fake("strides swapped" if wrong else "").conv2d(x, weight, stride, padding, pad_value)

    tried = set()
    assert not c.Kit(conv2d=conv, options={"algorithm": ("slow", "fast")}).run(100, SEED, shrink=False).passed
    assert tried == {"slow", "fast"}


# --- what is demanded


def test_a_convention_that_is_stated_is_demanded():
    report = c.Kit(linear=linear, sign_of_zero=0).run(60, SEED)
    (failure,) = report.failures
    assert failure.kind == "demand" and "sign_of_zero is 1, but 0 is demanded" in failure.diagnosis
    assert report.conventions["linear"]["sign_of_zero"] == 1
    assert c.Kit(linear=linear, sign_of_zero=1, output=c.exact).run(20, SEED).passed
    pack = Fake(word_size=32).pack
    assert c.Kit(pack=pack, word_size=32, tail=0).run(5, SEED).passed
    (wrong, *_) = c.Kit(pack=pack, word_size=64).run(5, SEED).failures
    assert wrong.kind == "demand" and wrong.message == "pack: words of 32 bits, should be of 64"
    assert c.Kit(linear=linear, output=c.scaled("alpha")).run(20, SEED).failures[0].kind == "demand"


def test_padding_that_is_honoured_for_some_values_is_a_fault_and_explained():
    fake = planted("pad_value or default")
    failure = c.Kit(conv2d=fake.conv2d).run(60, SEED).failures[0]
    assert failure.kind == "fault" and failure.diagnosis == "Padding: 0 is padded with -1; 1, -1 as asked"
    one = c.Kit(conv2d=fake.conv2d, pad_values=(0,)).run(20, SEED)
    assert one.passed and one.conventions["conv2d"]["pad_value"] == -1
    assert not c.Kit(conv2d=fake.conv2d, pad_values=(0,), pad_value=0).run(60, SEED, shrink=False).passed


def test_roles_that_disagree():
    report = c.Kit(linear=linear, pack=Fake(sign_of_zero="sign bit").pack).run(10, SEED)
    (failure,) = report.failures
    assert failure.message == "sign_of_zero differs: linear 1, pack sign bit" and failure.case is None
    assert failure.message in str(report)


# --- what it says


def test_a_counterexample_is_small_can_be_pasted_and_is_drawn():
    failure = c.Kit(conv2d=planted("height from the horizontal padding").conv2d).run(60, SEED).failures[0]
    assert "shape (1, 1, " in failure.message and failure.kind == "fault"
    assert failure.numbers.startswith("x = np.array([1], np.float32).reshape(1, 1, 1, 1)\nweight = ")
    assert failure.drawing.startswith("x\n  #\nweight")
    assert failure.diagnosis.startswith("None of the known")
    made = {}
    exec(failure.numbers, {"np": np}, made)
    for name, value in failure.case.arguments().items():
        assert np.array_equal(made[name], value), name


def test_the_snippet_runs(monkeypatch, capsys):
    fake = Fake("last bit of a word lost")
    (failure, *_) = c.Kit(pack=fake.pack, unpack=fake.unpack).run(60, SEED).failures
    monkeypatch.setitem(sys.modules, "your_module", fake)
    exec(failure.snippet, {})
    got, want = capsys.readouterr().out.split("]]\n", 1)
    assert got != want and failure.role == "unpack"
    fake = Fake("n_bits rounded up to 64")
    monkeypatch.setitem(sys.modules, "your_module", fake)
    (failure, *_) = c.Kit(pack=fake.pack, dot=fake.dot).run(60, SEED).failures
    exec(failure.snippet, {})
    assert capsys.readouterr().out == "64\n1\n"


@pytest.mark.parametrize("kind, shape", [("normal", (2, 70)), ("plus", (2, 70)), ("zeros", (90,)), ("subnormal", (3,))])
def test_arrays_of_any_size_are_written_as_numbers(kind, shape):
    from xnor_ref.conformance.basics.arrays import Data
    from xnor_ref.conformance.trying import showing

    data = Data(shape, kind, seed=7)
    made = eval(showing.recipe_text(data), {"np": np})
    assert made.dtype == F32 and np.array_equal(made.view(np.uint32), data.array().view(np.uint32))


def test_the_adapter_is_doubted_where_the_simplest_case_fails():
    assert (
        "First check the adapter"
        in c.Kit(linear=lambda x, weight: -linear(x, weight) - 7).run(20, SEED).failures[0].hint
    )
    error = c.Kit(linear=lambda x: x).run(10, SEED).failures[0]
    assert error.kind == "error" and "raised TypeError" in error.message and "First check the adapter" in error.hint
    tail = c.Kit(linear=Fake("tail bits counted").linear, channels=(65, 64)).run(40, SEED).failures[0]
    assert tail.hint == "" and tail.kind == "fault"


def test_results_of_any_kind_are_looked_at():
    for wrong in (None, "text", np.float32(1), [[1], [2, 3]]):
        assert c.Kit(linear=lambda x, weight, wrong=wrong: wrong).run(5, SEED, shrink=False).failures
    assert c.Kit(linear=lambda x, weight: linear(x, weight).tolist()).run(10, SEED).passed
    assert c.Kit(linear=lambda x, weight: linear(x, weight).astype(np.float16), largest_dot=2048).run(10, SEED).passed
    small = c.Kit(linear=lambda x, weight: linear(x, weight).astype(np.int8)).run(60, SEED).failures[0]
    assert "which int8 cannot hold" in small.message
    nan = c.Kit(linear=lambda x, weight: linear(x, weight) * np.nan).run(10, SEED, shrink=False)
    assert "nan" in nan.failures[0].message


def test_a_crash_is_a_finding_of_its_own():
    def crashing(x, weight):
        if x.shape[1] > 64:
            raise c.Crashed("died of signal 11")
        return linear(x, weight)

    failure = c.Kit(linear=crashing).run(60, SEED).failures[0]
    assert failure.kind == "crash" and "died of signal 11" in failure.message
    assert failure.case.data["x"].array().shape[1] == 65


def test_a_fault_that_comes_and_goes_is_said_to():
    calls = []

    def conv(x, weight):
        calls.append(1)
        return linear(x, weight) + 2 * (len(calls) > 30 and len(calls) % 3 == 0)

    (first, *_) = c.Kit(linear=conv).run(100, SEED).failures
    assert "not in every call" in first.message or "the same call gave" in first.message


def test_what_was_not_tested_is_said():
    report = c.Kit(linear=linear).run(5, SEED)
    assert report.passed and set(report.not_tested) == set(ROLES) - {"linear"}
    assert "not tested, because no function was given: conv2d, pack" in str(report)


def test_the_seed_decides_the_cases():
    def cases_of(seed):
        seen = []
        c.Kit(linear=lambda x, weight: seen.append(x.tobytes()) or linear(x, weight)).run(10, seed)
        return seen

    assert cases_of(1) == cases_of(1) != cases_of(2)
    assert cases_of(None) != cases_of(None)


# --- restrictions


def test_cases_lie_inside_of_the_restrictions():
    seen = []

    def conv(x, weight, stride, padding, pad_value):
        seen.append((x.shape, weight.shape, stride, padding, pad_value))
        assert (np.abs(x) == 1).all() and (np.abs(weight) == 1).all()
        return Fake().conv2d(x, weight, stride, padding, pad_value)

    limits = {
        "channels": c.multiple_of(32), "out_channels": (4, 8), "kernels": (3, 5), "strides": (1, 2), "paddings": (1,),
        "pad_values": (0,), "batch": 1, "square": True, "image_covers_kernel": True, "signs_only": True,
        "largest_dot": 3000, "largest_image": 8,
    }  # fmt: skip
    report = c.Kit(conv2d=conv, **limits).run(60, SEED)
    assert report.passed, str(report)
    assert {shape[1] for shape, *_ in seen} >= {32, 64, 96} and len(seen) > 60
    for (n, channels, height, width), (outputs, _, kh, kw), stride, padding, pad_value in seen:
        assert n == 1 and channels % 32 == 0 and height == width >= kh == kw and channels * kh * kw <= 3000
        assert outputs in (4, 8) and kh in (3, 5) and stride in ((1, 1), (2, 2)) and padding == (1, 1)
        assert pad_value == 0


def test_same_padding_and_dilation_and_groups_are_passed_on():
    seen = set()

    def conv(x, weight, stride, padding, pad_value, dilation, groups):
        seen.add((padding, dilation, groups))
        return Fake().conv2d(x, weight, stride, padding, pad_value, dilation, groups)

    settings = {"paddings": ("same", 0), "dilations": (1, 2), "groups": (1, 2), "channels": (2, 4, 66)}
    report = c.Kit(conv2d=conv, **settings).run(60, SEED)
    assert report.passed, str(report)
    assert {padding for padding, *_ in seen} == {"same", (0, 0)}
    assert {rest for _, *rest in seen for rest in [tuple(rest)]} == {((d, d), g) for d in (1, 2) for g in (1, 2)}


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "no function to test"),
        ({"linear": 3}, "must be a function"),
        ({"linear": linear, "chanels": 3}, "chanels"),
        ({"linear": linear, "channels": ()}, "channels is empty"),
        ({"linear": linear, "largest_dot": 0}, "largest_dot must be at least 1, got 0"),
        ({"linear": linear, "channels": (64, 0)}, "channels must be at least 1, got 0"),
        ({"linear": linear, "batch": "one"}, "batch must be an int"),
        ({"linear": linear, "kernels": (3, (1, 0))}, r"kernels must be ints of at least 1.*got \(1, 0\)"),
        ({"linear": linear, "strides": ("same",)}, "strides must be ints"),
        ({"linear": linear, "paddings": ("valid",)}, "or \"same\"; got 'valid'"),
        ({"linear": linear, "paddings": (((0, 1), (1, -1)),)}, "paddings must be"),
        ({"linear": linear, "pad_values": (2,)}, "pad_values must be among 0, 1, -1, got 2"),
        ({"linear": linear, "memory": "sparse"}, "memory must be among 'plain'"),
        ({"linear": linear, "options": {"fast": True}}, "options must be names with tuples"),
        ({"linear": linear, "sign_of_zero": 2}, "sign_of_zero must be one of 1, -1, 0"),
        ({"layer": linear}, "layer must be Layer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises((InputError, InputTypeError), match=message):
        c.Kit(**settings)


def test_restrictions_may_be_written_in_several_ways():
    limits = Restrictions(
        kernels=[3, [1, 2]], paddings=[1, [[0, 1], [1, 0]], "same"], pad_values=0, channels=64, batch=(2,)
    )
    assert limits.kernel_pairs == ((3, 3), (1, 2)) and limits.asked_pad_values == (0,) and limits.batches == (2,)
    assert limits.padding_pairs == ((1, 1), ((0, 1), (1, 0)), "same") and limits.channel_counts == (64,)
    assert Restrictions(channels=c.multiple_of(48)).channel_counts == (48, 96, 144, 192, 240)
    assert Restrictions(channels=c.multiple_of(512)).channel_counts == (512,) and Restrictions(batch=2).batches == (
        1,
        2,
    )
    with pytest.raises(InputError, match="multiple_of must be at least 1"):
        c.multiple_of(0)


def test_settings_that_leave_nothing_are_refused():
    with pytest.raises(InputError, match="leave no kernel pairs"):
        c.Kit(conv2d=Fake().conv2d, kernels=((1, 3),), square=True).run(5)
    with pytest.raises(InputError, match="divided by a number of groups"):
        c.Kit(conv2d=Fake().conv2d, channels=(3,), groups=(2,)).run(5)
    with pytest.raises(InputError, match="not a known scale"):
        c.scaled("beta")


# --- the definitions


def test_signs_are_those_of_the_bits():
    x = np.array([0.0, -0.0, 1e-45, -1e-45, 1e-38, 3, -np.inf], F32)
    assert oracle.signs(x).tolist() == [1, 1, 1, -1, 1, 1, -1]
    assert oracle.signs(x, -1).tolist() == [-1, -1, 1, -1, 1, 1, -1]
    assert oracle.signs(x, 0, flush=True).tolist() == [0, 0, 0, 0, 0, 1, -1]
    assert oracle.signs(x, "sign bit", flush=True).tolist() == [1, -1, 1, -1, 1, 1, -1]
    assert oracle.signs(x.astype(np.float64).astype(">f8")).tolist() == oracle.signs(x).tolist()
    assert oracle.signs(np.array([0, -3, 2], np.int8), 0).tolist() == [0, -1, 1]
    assert oracle.signs(np.asfortranarray(np.array([[1, -1], [0, 2]], F32)), -1).tolist() == [[1, -1], [-1, 1]]


def test_a_convolution_by_hand():
    x = np.array([[[[1, -2], [-3, 4]]]], F32)
    weight = np.array([[[[1, 1], [1, -1]]]], F32)
    for pad in (0, 1, -1):
        by_hand = definitions.conv2d(Conventions(), x, weight, (2, 2), (1, 1), pad).value
        assert by_hand.tolist() == [[[[-1 + 3 * pad, -1 + pad], [-1 + pad, 1 + pad]]]]
    flipped = definitions.conv2d(Conventions(kernel="convolution"), x, weight, (1, 1), (0, 0), 0).value
    assert flipped.tolist() == [[[[-1 - 1 - 1 + 1]]]]
    counted = definitions.conv2d(Conventions(form="agreements"), x, weight, (1, 1), (0, 0), 0).value
    assert counted.tolist() == [[[[1]]]]
    scaled = definitions.conv2d(Conventions(scale="alpha K"), x, weight * 2, (1, 1), (0, 0), 0)
    assert scaled.value.tolist() == [[[[-2 * 2 * 2.5]]]] and scaled.n == 4 and scaled.terms.tolist() == [[[[20]]]]


def test_the_bound_holds_for_naive_sums_and_grows_with_their_length():
    rng = np.random.default_rng(0)
    for n in (10, 1000, 76_800):
        for weight in (np.full((1, n), 0.1, F32), rng.standard_normal((1, n), F32)):
            want = definitions.alpha(Conventions(), weight)
            naive = np.cumsum(np.abs(weight), dtype=F32)[-1:] / F32(n)
            pairs = np.abs(weight).mean(axis=1, dtype=F32)
            assert np.abs(naive - want.value) <= want.allowed("naive")
            assert np.abs(pairs - want.value) <= want.allowed("careful") <= want.allowed("naive")
            assert want.allowed("once") <= want.allowed("careful")
    want = definitions.alpha(Conventions(), np.full((1, 76_800), 0.1, F32))
    naive = np.cumsum(np.full(76_800, 0.1, F32), dtype=F32)[-1:] / F32(76_800)
    assert np.abs(naive - want.value) > 1e-4 * want.value > want.allowed("careful")


@pytest.mark.parametrize("word_size", [8, 16, 32, 64])
@pytest.mark.parametrize("bit_order", VALUES["bit_order"])
def test_words_are_read_as_they_are_written(bit_order, word_size):
    s = signs(np.random.default_rng(1).standard_normal((3, 77)))
    by = Conventions(bit_order=bit_order, word_size=word_size, polarity=-1)
    words = bits.write(s, by)
    assert words.dtype.itemsize * 8 == word_size and words.shape == (3, -(-77 // word_size))
    read, tail = bits.read(words, 3, 77, by)
    assert np.array_equal(read, s) and not tail.any()
    assert np.array_equal(words, Fake(bit_order=bit_order, word_size=word_size, polarity=-1).pack(s.astype(F32)))


def test_every_convention_has_values_and_every_role_a_definition():
    assert set(VALUES) == set(NAMES) and all(getattr(Conventions(), name) == VALUES[name][0] for name in NAMES)
    assert {name for role in ROLES.values() for name in role.conventions} | {"summation"} == set(NAMES)
    assert set(definitions.DEFINITIONS) == set(ROLES) - {"layer"}
    fake = Fake()
    roles = [role for role in ROLES if role != "layer"]
    subject = Subject({role: getattr(fake, role) for role in roles})
    subject.by = dict.fromkeys(roles, Conventions())
    made = properties.properties(subject, Restrictions(), roles)
    assert len({prop.name for prop in made}) == len(made) and {prop.role for prop in made} == set(roles)
    for prop in made:
        assert running.try_property(prop, subject, 5, SEED).error is None, prop.name


# --- where it runs


def flushing():
    """Have this thread take subnormal numbers for zero, as some libraries do; False where that is not possible."""
    setting = steady.setting()
    if setting is None or sys.platform != "linux" or not hasattr(setting, "raw"):
        return False
    raw = bytearray(setting.raw)
    raw[29] |= 0x80  # FTZ and
    raw[28] |= 0x40  # DAZ of MXCSR, the last word of glibc's fenv_t on x86-64
    steady.restore(type(setting).from_buffer(raw))
    return not steady.is_usual()


def test_a_processor_that_flushes_subnormal_numbers_is_noticed_and_kept_from_the_oracle():
    before = steady.setting()
    try:
        if not flushing():
            pytest.skip("this processor's setting is not that of x86-64 with glibc")
        steady.restore(before)

        def conv(x, weight):
            flushing()
            return linear(x, weight)

        report = c.Kit(linear=conv).run(40, SEED)
        assert report.passed, str(report)
        assert report.conventions["linear"]["subnormals"] == "flushed"
        assert (
            len(report.notes) == 1 and "flush subnormal numbers" in report.notes[0] and report.notes[0] in str(report)
        )
        assert not steady.is_usual()  # foreign code left it so
        steady.restore(before)
        assert c.Kit(linear=linear).run(40, SEED).notes == ()
    finally:
        steady.restore(before)


def test_importing_it_imports_neither_hypothesis_nor_numba_nor_kernels():
    code = """
        import sys
        from xnor_ref import conformance as c
        loaded = set(sys.modules)
        assert not {"hypothesis", "numba", "llvmlite", "torch", "pytest", "xnor_ref.kernels"} & loaded, loaded
        import numpy as np
        report = c.Kit(linear=lambda x, w: np.where(x >= 0, 1, -1) @ np.where(w >= 0, 1, -1).T).run(5, 1)
        assert report.passed
        assert not {"numba", "llvmlite", "xnor_ref.kernels"} & set(sys.modules)
        print("done")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr

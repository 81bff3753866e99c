"""Batches: order, augmentation and normalisation; both rungs to the bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xnor_ref import datasets
from xnor_ref.datasets.batches import AugmentSpec, epoch_order, make_batch, normalization_table, resized, splitmix64
from xnor_ref.errors import InputError, InputTypeError
from xnor_ref.kernels.basics.rungs import jit_disabled

JIT_DISABLED = jit_disabled()

BACKENDS = ["reference"] if JIT_DISABLED else ["reference", "numba"]


def images_of(n=9, size=8, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, channels)).astype(np.uint8)


def table_of(channels=3):
    return normalization_table((0.4, 0.5, 0.6)[:channels], (0.2, 0.25, 0.3)[:channels])


def bits(batch):
    return batch.view(np.uint32)


def test_epoch_order_is_a_permutation_that_depends_on_seed_and_epoch_alone():
    order = epoch_order(1000, 3, 5)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(1000))
    assert np.array_equal(order, epoch_order(1000, 3, 5))
    for seed, epoch in ((3, 6), (4, 5), (5, 3)):
        assert not np.array_equal(order, epoch_order(1000, seed, epoch))
    assert epoch_order(1, 0, 0).tolist() == [0]


@pytest.mark.parametrize("arguments", [(0, 0, 0), (-1, 0, 0), (5, -1, 0), (5, 0, -1), (5, 2**63, 0)])
def test_epoch_order_refuses_numbers_out_of_range(arguments):
    with pytest.raises(InputError, match="epoch_order"):
        epoch_order(*arguments)


@pytest.mark.parametrize("wrong", [1.0, "1", True, None])
def test_epoch_order_refuses_other_types(wrong):
    with pytest.raises(InputTypeError, match="seed must be an int"):
        epoch_order(5, wrong, 0)


def test_normalization_table_by_hand():
    table = normalization_table((0.5, 0.0), (0.25, 1.0))
    assert table.dtype == np.float32
    assert table.shape == (256, 2)
    assert table[0].tolist() == [-2.0, 0.0]
    assert table[255].tolist() == [2.0, 1.0]
    assert table[51, 1] == np.float32(0.2)


@pytest.mark.parametrize(
    ("mean", "std"),
    [((), ()), ((0.5,), (0.1, 0.1)), ((0.5,), (0.0,)), ((0.5,), (-1.0,)), ((np.nan,), (1.0,)), ((0.5,), (np.inf,))],
)
def test_normalization_table_refuses(mean, std):
    with pytest.raises(InputError, match="normalization_table"):
        normalization_table(mean, std)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_augmentation_a_batch_is_the_table_of_the_pixels(backend):
    images, table = images_of(), table_of()
    indices = np.array([8, 0, 0, 3])
    batch = make_batch(images, indices, table, backend=backend)
    assert batch.dtype == np.float32
    assert batch.shape == (4, 3, 8, 8)
    assert batch.flags.c_contiguous
    for b, index in enumerate(indices):
        for c in range(3):
            assert np.array_equal(batch[b, c], table[images[index, :, :, c], c])


@pytest.mark.parametrize("backend", BACKENDS)
def test_shifts_and_flips_by_hand(backend):
    """Every augmented image is one of the (2p+1)^2 * 2 that an explicit padding and cropping gives."""
    images, table, p = images_of(n=40), table_of(), 2
    batch = make_batch(images, np.arange(40), table, seed=1, epoch=2, augment=AugmentSpec(p, True), backend=backend)
    seen = set()
    for index in range(40):
        plain = make_batch(images, np.array([index]), table)[0]
        padded = np.pad(plain, ((0, 0), (p, p), (p, p)))  # zeros: the mean pixel
        candidates = {
            (y, x, flip): padded[:, y : y + 8, x : x + 8][:, :, :: -1 if flip else 1]
            for y in range(2 * p + 1)
            for x in range(2 * p + 1)
            for flip in (False, True)
        }
        matches = [key for key, wanted in candidates.items() if np.array_equal(batch[index], wanted)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 20
    assert {flip for _, _, flip in seen} == {False, True}


def test_augmentation_depends_on_seed_epoch_and_index_alone():
    images, table, spec = images_of(n=64), table_of(), AugmentSpec(3, True)
    whole = make_batch(images, np.arange(64), table, seed=5, epoch=7, augment=spec)
    order = epoch_order(64, 0, 0)
    parts = [make_batch(images, order[i : i + 10], table, seed=5, epoch=7, augment=spec) for i in range(0, 64, 10)]
    assert np.array_equal(np.concatenate(parts), whole[order])
    for seed, epoch in ((5, 8), (6, 7), (7, 5)):
        assert not np.array_equal(whole, make_batch(images, np.arange(64), table, seed=seed, epoch=epoch, augment=spec))


@pytest.mark.parametrize(
    ("name", "size", "most"), [("folder", s, s // 8) for s in (8, 16, 64, 128)] + [("mnist", 28, 2)]
)
def test_usual_shifts_follow_the_size_of_the_image(name, size, most):
    images, table = np.full((300, size, size, 1), 255, np.uint8), normalization_table((0.5,), (0.5,))
    batch = make_batch(images, np.arange(300), table, augment=datasets.default_augment(name))
    blank = (batch == 0).all(axis=(1, 2)).sum(axis=1), (batch == 0).all(axis=(1, 3)).sum(axis=1)
    assert [side.max() for side in blank] == [most, most]


def test_shifts_are_uniform_and_flips_even():
    images = np.zeros((20000, 3, 3, 1), np.uint8)
    images[:, 1, 1] = 255  # the pixel that shows where an image went
    table = normalization_table((0.0,), (1.0,))
    batch = make_batch(images, np.arange(20000), table, augment=AugmentSpec(1, False))
    share = batch[:, 0].mean(axis=0) * 9
    np.testing.assert_allclose(share, 1, atol=0.08)  # five standard deviations are 0.1
    images[:, 1, 1], images[:, 1, 0] = 0, 255
    batch = make_batch(images, np.arange(20000), table, augment=AugmentSpec(0, True))
    assert abs(batch[:, 0, 1, 2].mean() - 0.5) < 0.02


def test_splitmix64_known_values():
    # The first outputs of the generator with seed 1234567, as published with its reference code.
    gamma = 0x9E3779B97F4A7C15
    seeds = np.array([(1234567 + k * gamma) % 2**64 for k in range(3)], np.uint64)
    assert splitmix64(seeds).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.skipif(JIT_DISABLED, reason="needs the compiled rung")
@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(1, 11),
    channels=st.sampled_from([1, 2, 3, 4]),
    count=st.integers(0, 20),
    padding=st.sampled_from([0, 1, 4, 10, 11, 12, 1024]),
    flip=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 1000),
    threads=st.integers(1, 3),
)
def test_both_rungs_agree_to_the_bit(size, channels, count, padding, flip, seed, epoch, threads):
    images = images_of(5, size, channels, seed=size)
    images.setflags(write=False)
    table = np.random.default_rng(count).standard_normal((256, channels)).astype(np.float32)
    indices = np.random.default_rng(epoch).integers(0, 5, count)
    keywords = {"seed": seed, "epoch": epoch, "augment": AugmentSpec(padding, flip)}
    fast = make_batch(images, indices, table, backend="numba", threads=threads, **keywords)
    slow = make_batch(images, indices, table, backend="reference", threads=1, **keywords)
    assert np.array_equal(bits(fast), bits(slow))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_read_only_memory_map_and_odd_indices_are_taken(tmp_path, backend):
    images, table = images_of(), table_of()
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    indices = np.arange(9)[::-2]  # not contiguous
    spec = AugmentSpec(1, True)
    ours = make_batch(mapped, indices, table, augment=spec, backend=backend)
    assert np.array_equal(ours, make_batch(images, indices.copy(), table, augment=spec, backend=backend))


@pytest.mark.parametrize(
    ("images", "indices", "table", "error", "message"),
    [
        (images_of().astype(np.float32), np.arange(2), table_of(), InputTypeError, "images must be uint8"),
        (images_of()[0], np.arange(2), table_of(), InputTypeError, "4 axes"),
        (images_of().tolist(), np.arange(2), table_of(), InputTypeError, "got list"),
        (images_of()[:, :, ::2], np.arange(2), table_of(), InputError, "C-contiguous"),
        (images_of(), np.arange(2, dtype=np.int32), table_of(), InputTypeError, "indices must be int64"),
        (images_of(), np.array([0, 9]), table_of(), InputError, "from 0 to 9, but there are 9"),
        (images_of(), np.array([-1, 0]), table_of(), InputError, "from -1 to 0"),
        (images_of(), np.arange(2), table_of().astype(np.float64), InputTypeError, "lut must be float32"),
        (images_of(), np.arange(2), table_of(1), InputError, r"lut has shape \(256, 1\)"),
    ],
)
def test_wrong_arguments(images, indices, table, error, message):
    with pytest.raises(error, match=message):
        make_batch(images, indices, table)


def test_wrong_backend_and_counters():
    with pytest.raises(InputError, match="backend"):
        make_batch(images_of(), np.arange(2), table_of(), backend="fast")
    with pytest.raises(InputError, match="epoch must be from 0"):
        make_batch(images_of(), np.arange(2), table_of(), epoch=-1)


@pytest.mark.parametrize(
    ("arguments", "error"), [((-1, True), InputError), ((1025,), InputError), ((1.5,), InputTypeError)]
)
def test_augment_spec_refuses(arguments, error):
    with pytest.raises(error, match="crop_padding"):
        AugmentSpec(*arguments)
    with pytest.raises(InputTypeError, match="flip"):
        AugmentSpec(0, 1)


def test_float_images_are_moved_as_raw_ones_and_not_normalised():
    """Of pixels that float32 holds as they are, the table v -> v makes the same batches."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 9, 7, 2), np.uint8)
    as_they_are = np.repeat(np.arange(256, dtype=np.float32)[:, None], 2, axis=1)
    indices, how = np.int64([3, 19, 0]), {"seed": 3, "epoch": 2, "augment": AugmentSpec(3, True)}
    found = make_batch(pixels.astype(np.float32), indices, None, **how)
    assert np.array_equal(found, make_batch(pixels, indices, as_they_are, **how))
    with pytest.raises(InputTypeError, match="images must be float32 with 4 axes, got uint8"):
        make_batch(pixels, indices, None)


@pytest.mark.parametrize("size", [1, 7, 12, 16])
@pytest.mark.parametrize("sides", [(16, 16), (16, 24), (21, 16)])
def test_smaller_images_are_those_of_pillow(sides, size):
    images = np.random.default_rng(0).standard_normal((2, 3, *sides)).astype(np.float32)
    smaller = resized(images, size, backend="reference")
    assert np.array_equal(bits(smaller), bits(resized(images, size, backend=BACKENDS[-1], threads=2)))
    assert min(smaller.shape[2:]) == size and smaller.dtype == np.float32
    by_pillow = Image.fromarray(images[1, 2]).resize(smaller.shape[:1:-1], Image.Resampling.BILINEAR)
    np.testing.assert_allclose(smaller[1, 2], np.asarray(by_pillow), rtol=1e-5, atol=1e-6)


def test_a_flat_image_stays_flat_when_it_gets_smaller():
    np.testing.assert_allclose(resized(np.full((1, 1, 19, 23), 3, np.float32), 5), 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("images", "size", "error", "text"),
    [
        (np.zeros((1, 1, 4, 4)), 2, InputTypeError, r"float32 \(N, C, H, W\), got float64 \(1, 1, 4, 4\)"),
        (np.zeros((1, 4, 4), np.float32), 2, InputTypeError, r"got float32 \(1, 4, 4\)"),
        (np.zeros((1, 1, 4, 6), np.float32), 5, InputError, "size must be .* 4, got 5"),
    ],
)
def test_images_that_cannot_be_made_smaller(images, size, error, text):
    with pytest.raises(error, match=text):
        resized(images, size)

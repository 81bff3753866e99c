"""Reading and writing words of bits by every convention: bit order, polarity, word size, padding of rows, tails."""

import numpy as np

from xnor_ref.conformance.basics.conventions import Conventions


def _stream(octets: np.ndarray, by: Conventions) -> np.ndarray:
    """Return bits (..., bits) in the order of elements, of words given as little-endian bytes (..., bytes)."""
    bits = np.unpackbits(octets, axis=-1, bitorder="big" if by.bit_order == "most first in bytes" else "little")
    if by.bit_order == "most first":
        bits = bits.reshape(*bits.shape[:-1], -1, by.word_size)[..., ::-1].reshape(bits.shape)
    return bits


def read(words: np.ndarray, rows: int, n: int, by: Conventions) -> tuple[np.ndarray, np.ndarray] | None:
    """Return signs (rows, n) and the bits after them, of words of `by.word_size`; None if the words are too few."""
    octets = np.ascontiguousarray(words, words.dtype.newbyteorder("<")).view(np.uint8)
    bits = _stream(octets.reshape(-1) if by.rows == "joined" else octets.reshape(rows, -1), by)
    if by.rows == "joined":
        if bits.size < rows * n:
            return None
        bits, tail = bits[: rows * n].reshape(rows, n), bits[rows * n :]
    else:
        if bits.shape[1] < n:
            return None
        bits, tail = bits[:, :n], bits[:, n:]
    return np.where(bits == 1, float(by.polarity), float(-by.polarity)), tail


def write(signs: np.ndarray, by: Conventions) -> np.ndarray:
    """Return words (rows, words) of signs (rows, n). Each row is padded with 0 bits."""
    bits = (signs == by.polarity).astype(np.uint8)
    bits = np.pad(bits, [(0, 0), (0, -bits.shape[1] % by.word_size)])
    if by.bit_order == "most first":
        bits = bits.reshape(len(bits), -1, by.word_size)[..., ::-1].reshape(bits.shape)
    octets = np.packbits(bits, axis=-1, bitorder="big" if by.bit_order == "most first in bytes" else "little")
    return np.ascontiguousarray(octets).view(f"<u{by.word_size // 8}").astype(f"u{by.word_size // 8}")

"""Noise as an input: a counter-based generator keyed by (seed, site, step, sample).

Philox 4x32-10 in plain integers. Every execution draws the same numbers for the same key, whatever the order and
the batch size: replay needs no recorded state, and samples stay independent of each other.
"""

from __future__ import annotations

from hashlib import sha256
from math import cos, log, pi, sqrt

_MASK = 0xFFFFFFFF


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Four 32-bit words (Salmon et al. 2011, ten rounds)."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (second >> 32) ^ b ^ k0, second & _MASK, (first >> 32) ^ d ^ k1, first & _MASK
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return a, b, c, d


def site_key(site: str) -> int:
    """32 bits from a site's name, the same in every process."""
    return int.from_bytes(sha256(site.encode()).digest()[:4], "little")


def draw(kind: str, seed: int, site: str, step: int, sample: int, count: int, p: float = 0.5) -> list[float]:
    """`count` numbers. kind: "sign" (-1, 1), "uniform" [0, 1), "normal", or "bernoulli" (1 with probability p)."""
    key = (seed & _MASK, (seed >> 32) & _MASK)
    found: list[float] = []
    for element in range(count):
        words = philox((element, sample & _MASK, step & _MASK, site_key(site)), key)
        first = (words[0] * 2**21 + (words[1] >> 11)) / 2**53
        second = (words[2] * 2**21 + (words[3] >> 11)) / 2**53
        found.append(_shape(kind, first, second, p))
    return found


def _shape(kind: str, first: float, second: float, p: float) -> float:
    if kind == "sign":
        return 1.0 if first < 0.5 else -1.0
    if kind == "uniform":
        return first
    if kind == "bernoulli":
        return 1.0 if first < p else 0.0
    if kind == "normal":
        return sqrt(-2.0 * log(1.0 - first)) * cos(2.0 * pi * second)
    raise ValueError(f"noise of kind `{kind}`")

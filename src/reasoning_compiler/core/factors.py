"""Factors of loop extents."""

from __future__ import annotations

import itertools
from collections.abc import Iterator


def prime_factors(number: int) -> list[int]:
    """Returns the prime factors of a positive integer in ascending order, with repetition."""
    factors, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors + ([number] if number > 1 else [])


def divisors(number: int, limit: int) -> list[int]:
    """Returns the divisors of a positive integer up to a limit, in ascending order."""
    return [d for d in range(1, min(number, limit) + 1) if number % d == 0]


def prime_moves(factors: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yields the factors with one prime moved from one of them to another."""
    for source, target in itertools.permutations(range(len(factors)), 2):
        for prime in sorted(set(prime_factors(factors[source]))):
            moved = list(factors)
            moved[source] //= prime
            moved[target] *= prime
            yield tuple(moved)

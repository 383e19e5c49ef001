"""Algorithm 1 written plainly with the reference: the peers of the speed benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from core.compression.reference import Factors, Features, compare, decompose, explained_variance, features, reconstruct
from core.data.images import decode, encode


def printed_loop(data: bytes, ks: Iterable[int]) -> Iterator[dict[str, float | None]]:
    """Yield the sizes and metrics of one image file at each k, as the article prints it: all steps inside the loop."""
    image = decode(data)
    control = encode(image, "jpeg", 95)
    for k in ks:
        yield _row(data, decompose(image), features(image), len(control), k)


def plain_loop(data: bytes, ks: Iterable[int]) -> Iterator[dict[str, float | None]]:
    """Yield the rows of `printed_loop`; what does not depend on k is done once."""
    image = decode(data)
    factors, original = decompose(image), features(image)
    control = encode(image, "jpeg", 95)
    for k in ks:
        yield _row(data, factors, original, len(control), k)


def _row(data: bytes, factors: list[Factors], original: Features, control: int, k: int) -> dict[str, float | None]:
    stored = encode(reconstruct(factors, k), "jpeg", 95)
    return {
        **compare(original, features(decode(stored, own=True))),
        "explained_variance": explained_variance(factors, k),
        "source_bytes": len(data),
        "stored_bytes": len(stored),
        "control_bytes": control,
    }

"""Algorithm 1 as the article prints it: a peer of the speed benchmark, beside the reference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from core.compression.reference import compare, decompose, explained_variance, features, reconstruct
from core.data.images import decode, encode


def printed_loop(data: bytes, ks: Iterable[int]) -> Iterator[dict[str, float | None]]:
    """Yield one row per k like `reference.article_loop`, with the SVD and the original's features inside the loop."""
    image = decode(data)
    control = encode(image, "jpeg", 95)
    for k in ks:
        factors, original = decompose(image), features(image)
        stored = encode(reconstruct(factors, k), "jpeg", 95)
        yield {
            **compare(original, features(decode(stored, own=True))),
            "explained_variance": explained_variance(factors, k),
            "source_bytes": len(data),
            "stored_bytes": len(stored),
            "control_bytes": len(control),
        }

"""A JSON header and parts of bytes as one blob, for files.

In front lies the header's length; the parts follow the header, which ends with their sizes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_LENGTH_BYTES = 8


def join(header: Mapping[str, Any], parts: Sequence[bytes]) -> bytes:
    """The blob that ``split`` takes apart."""
    text = json.dumps({**header, "sizes": list(map(len, parts))}, separators=(",", ":")).encode()
    return b"".join([len(text).to_bytes(_LENGTH_BYTES, "little"), text, *parts])


def split(blob: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """The header and the parts."""
    start = _LENGTH_BYTES + int.from_bytes(blob[:_LENGTH_BYTES], "little")
    header = json.loads(blob[_LENGTH_BYTES:start])
    parts = []
    for size in header.pop("sizes"):
        parts.append(blob[start : start + size])
        start += size
    return header, parts

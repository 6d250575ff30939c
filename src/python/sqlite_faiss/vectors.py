"""Vectors as the BLOBs that the extension reads: packed little-endian float32."""

from __future__ import annotations

import sys
from array import array
from math import isfinite
from typing import Iterable, SupportsFloat, Union

COMPONENT_BYTES = 4


def encode(vector: Iterable[SupportsFloat]) -> bytes:
    """The BLOB of a vector: four bytes for each component, without a header.

    `vector` is a list, a tuple, an array.array, a NumPy array or anything else that yields
    numbers, one after another. Components are rounded to float32.

    ValueError for a component that is NaN, infinite or beyond the range of float32, which
    no search could rank; TypeError for what is not a vector of numbers. An empty vector
    gives an empty BLOB. Linear in the components; fastest for NumPy arrays.
    """
    if isinstance(vector, (str, bytes, bytearray)):
        raise TypeError(f"a vector must be numbers, not {type(vector).__name__}")
    shape = getattr(vector, "shape", None)
    if shape is not None and len(shape) != 1:
        raise TypeError(f"expected one vector, not an array of {len(shape)} dimensions")
    if not hasattr(vector, "__getitem__"):
        vector = list(vector)
    if shape is not None and hasattr(vector, "astype"):
        components = array("f", vector.astype("=f4").tobytes())
    else:
        components = array("f", vector)  # type: ignore[arg-type]
    if not all(map(isfinite, components)):
        _refuse(vector, components)
    if sys.byteorder == "big":
        components.byteswap()
    return components.tobytes()


def decode(blob: Union[bytes, bytearray, memoryview]) -> tuple[float, ...]:
    """The components of a BLOB: encode(decode(blob)) == blob.

    ValueError where the bytes are not a whole number of components. With NumPy,
    numpy.frombuffer(blob, "<f4") is the same as an array.
    """
    if len(blob) % COMPONENT_BYTES:
        raise ValueError(
            f"a BLOB of {len(blob)} bytes is not a whole number of float32 of "
            f"{COMPONENT_BYTES} bytes"
        )
    components = array("f", bytes(blob))
    if sys.byteorder == "big":
        components.byteswap()
    return tuple(components)


def _refuse(vector: Iterable[SupportsFloat], components: array[float]) -> None:
    at = next(i for i, x in enumerate(components) if not isfinite(x))
    given = float(vector[at])  # type: ignore[index]
    if isfinite(given):
        raise ValueError(f"component {at} of the vector ({given}) is beyond the range of float32")
    raise ValueError(f"component {at} of the vector is {given}: expected a finite number")

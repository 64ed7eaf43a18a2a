"""Entries of a zip archive, read without trusting what the archive claims.

An entry is decompressed only up to the size that it states, which is compared with a limit first.
Nothing is executed and no object is unpickled.
"""

import zipfile
from collections.abc import Sequence

import numpy as np

_LARGEST_HEADER = 1 << 16
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ENCRYPTED = 0x1


class Entries:
    """Entries of an open archive, by name.

    Raises:
      ValueError: for a name that is used twice, an entry that is encrypted or compressed in a
        way that exported files are not; from methods, for one that is
        missing, too large, damaged or not what is expected.
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            name = info.filename
            if name in self._infos:
                raise ValueError(f"it has two entries with the name {name!r}")
            if info.flag_bits & _ENCRYPTED:
                raise ValueError(f"{name!r} is encrypted")
            if info.compress_type not in _METHODS:
                method = f"method {info.compress_type}"
                raise ValueError(f"{name!r} is compressed by {method}, expected deflate or none")
            self._infos[name] = info

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def read(self, name: str, limit: int) -> bytes:
        """Return the content of an entry of at most ``limit`` bytes."""
        info = self._info(name)
        if info.file_size > limit:
            raise ValueError(f"{name!r} has {info.file_size:,} bytes, expected at most {limit:,}")
        return self._archive.read(info)

    def array(self, name: str, dtype: str, shape: Sequence[int]) -> np.ndarray:
        """Return the array of a ``.npy`` entry; another type or shape is refused before reading."""
        info, kind = self._info(name), np.dtype(dtype)
        if kind.hasobject:
            raise ValueError(f"{name!r} cannot have type {dtype}")
        size = kind.itemsize
        for axis in shape:  # of any size, as Python's integers
            size *= axis
        if not size < info.file_size <= size + _LARGEST_HEADER:
            expected = f"{dtype} {list(shape)}, {size:,} bytes and a header"
            raise ValueError(f"{name!r}: expected {expected}, found {info.file_size:,} bytes")
        with self._archive.open(info) as stream:
            version = np.lib.format.read_magic(stream)
            if version != (1, 0):
                raise ValueError(f"{name!r} has version {version} of the .npy format")
            found = np.lib.format.read_array_header_1_0(stream)
            if found != (tuple(shape), False, kind):
                expected = f"{dtype} {list(shape)}"
                raise ValueError(f"{name!r}: expected {expected}, found {found[2]} {found[0]}")
            content = stream.read()
        if len(content) != size:
            raise ValueError(f"{name!r}: expected {size:,} bytes, found {len(content):,}")
        return np.frombuffer(content, kind).reshape(shape)

    def _info(self, name: str) -> zipfile.ZipInfo:
        if name not in self._infos:
            raise ValueError(f"it has no entry {name!r}")
        return self._infos[name]

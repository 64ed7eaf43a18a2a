"""What TensorBoard finds in a run folder."""

import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c


def events(folder: Path) -> list[Event]:
    """Every event on disk, file by file in order of name, as TensorBoard reads them."""
    found = []
    for file in sorted((folder / "tensorboard").iterdir()):
        assert "tfevents" in file.name
        data = file.read_bytes()
        while data:
            header, (size,) = data[:8], struct.unpack("<Q", data[:8])
            assert struct.unpack("<I", data[8:12])[0] == masked_crc32c(header)
            body = data[12 : 12 + size]
            assert struct.unpack("<I", data[12 + size : 16 + size])[0] == masked_crc32c(body)
            found.append(Event.FromString(body))
            data = data[16 + size :]
    return found


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    """The last value by tag and step."""
    return {
        (value.tag, event.step): value.simple_value
        for event in events(folder)
        for value in event.summary.value
        if value.HasField("simple_value")
    }

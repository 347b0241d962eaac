"""Reads sensor_msgs/PointCloud2 from ROS 1 bags, ROS 2 bag folders and MCAP files, through rosbags."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection
from rosbags.typesys import Stores, get_typestore

from robocache.cloud.clouds import Cloud, CloudError, ReadOptions, make_cloud
from robocache.cloud.readers import said

CLOUD = "sensor_msgs/msg/PointCloud2"
TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}  # of sensor_msgs/PointField


def read(path: Path, options: ReadOptions) -> list[Cloud]:
    """A cloud for each message of the topic, or for the one that --frame numbers; stamped by header.stamp."""
    try:
        with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
            links = _links(path, reader, options)
            count = sum(link.msgcount for link in links)
            if not count:
                raise CloudError(f"{path}: {links[0].topic} must have at least one message, got none")
            if options.frame is not None and not 0 <= options.frame < count:
                raise CloudError(f"--frame must be from 0 to {count - 1} for {links[0].topic}, got {options.frame}")
            return list(_clouds(path, reader, links, options))
    except CloudError:
        raise
    except Exception as error:  # rosbags passes on whatever its parsers trip over
        raise CloudError(f"{path} must be a ROS bag or MCAP of ROS messages, got {said(error)}") from None


def _links(path: Path, reader: AnyReader, options: ReadOptions) -> list[Connection]:
    """The connections of the topic asked for, or of the only topic that carries clouds."""
    topics = sorted({link.topic for link in reader.connections if link.msgtype == CLOUD})
    if not topics:
        kinds = ", ".join(sorted({link.msgtype for link in reader.connections})) or "no message"
        raise CloudError(f"{path} must have a topic of {CLOUD}, got {kinds}")
    if options.topic is None and len(topics) > 1:
        raise CloudError(f"--topic must choose one of {', '.join(topics)}; got none")
    if options.topic is not None and options.topic not in topics:
        raise CloudError(f"--topic must be one of {', '.join(topics)}; got {options.topic}")
    topic = options.topic or topics[0]
    return [link for link in reader.connections if link.topic == topic and link.msgtype == CLOUD]


def _clouds(path: Path, reader: AnyReader, links: list[Connection], options: ReadOptions) -> Iterator[Cloud]:
    for index, (link, _, raw) in enumerate(reader.messages(connections=links)):
        if options.frame in (None, index):
            yield _cloud(reader.deserialize(raw, link.msgtype), path, options, f" {link.topic} [{index}]")
        if options.frame == index:
            return


def _cloud(message: Any, path: Path, options: ReadOptions, part: str) -> Cloud:
    """Takes the fields out of the bytes, wherever the message says that they lie."""
    order = ">" if message.is_bigendian else "<"
    known = [field for field in message.fields if field.datatype in TYPES]
    # A count of 0 is what some old drivers write for one number.
    kinds = [(f"{order}{TYPES[field.datatype]}", (field.count,) if field.count > 1 else ()) for field in known]
    height, width = int(message.height), int(message.width)
    step, row = int(message.point_step), int(message.row_step)
    row = row if height > 1 else step * width
    needed = row * (height - 1) + step * width if height * width else 0
    if row < step * width or message.data.size < needed:
        raise CloudError(
            f"{path}{part} must hold {height} rows of {width} points of {step} bytes, got rows of {row} bytes in "
            f"{message.data.size} bytes"
        )
    try:
        kind = np.dtype(
            {
                "names": [field.name for field in known],
                "formats": kinds,
                "offsets": [int(field.offset) for field in known],
                "itemsize": step,
            }
        )
    except ValueError as error:
        raise CloudError(f"{path}{part} must have fields of different names within {step} bytes, got {error}") from None
    if height * width == 0:
        records = np.empty(0, kind)
    else:
        buffer = np.ascontiguousarray(message.data)
        records = np.ndarray((height, width), kind, buffer.data, strides=(row, step)).reshape(-1)
    stamp = int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)
    return make_cloud({field.name: records[field.name] for field in known}, path, options, part, stamp)

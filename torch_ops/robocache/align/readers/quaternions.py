"""Which columns of a log form a quaternion, told by message type, field name or column names, never by the numbers."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from robocache.align.log import Column, Quaternions

# Fields that PX4's message definitions call a quaternion (w, x, y, z), where they hold four floats.
PX4_FIELDS = (
    "q",  # vehicle_attitude, vehicle_odometry and every topic of their types, gimbal_*_attitude, camera_capture, ...
    "q_d",  # vehicle_attitude_setpoint and its virtual kin
    "q_offset",  # vehicle_odometry up to PX4 1.13
    "delta_q_reset",  # vehicle_attitude: the turn of the last reset
    "quaternion",  # trajectory_setpoint6dof
)
PX4_STATES = "estimator_states"  # the EKF's state vector, which begins with its attitude
ARRAY_NAMES = ("quaternion", "quat")  # names that say it in messages and tables of any kind
STEMS = ("q", *ARRAY_NAMES, "orientation", "rotation", "rot")  # in front of x, y, z and w
COMPONENTS = {"x", "y", "z", "w"}

_ELEMENT = re.compile(r"(?P<stem>.+)\[\d+\](?P<key>@.*)?")
_COMPONENT = re.compile(r"(?P<stem>.+?)[._]?(?P<letter>[xyzw])(?P<key>@.*)?", re.IGNORECASE)


def px4_quaternions(topic: str, columns: Mapping[str, Column]) -> Quaternions:
    """The quaternions of a PX4 topic; its instances (`estimator_states.1`) hold the same fields."""
    found = array_quaternions(columns, PX4_FIELDS)
    states = tuple(f"states[{index}]" for index in range(4))
    if topic.partition(".")[0] == PX4_STATES and all(path in columns for path in states):
        found["states"] = states
    return found


def array_quaternions(columns: Mapping[str, Column], names: Collection[str]) -> Quaternions:
    """Arrays of exactly four floats, the last word of whose path (`base.imu_quat`: quat) or all of it is a name."""
    arrays: dict[tuple[str, str], list[str]] = {}
    for path in columns:
        if match := _ELEMENT.fullmatch(path):
            arrays.setdefault((match["stem"], match["key"] or ""), []).append(path)
    return {
        stem + key: tuple(paths)
        for (stem, key), paths in arrays.items()
        if (stem.rpartition(".")[2] in names or _last_word(stem) in ARRAY_NAMES)
        and paths == [f"{stem}[{index}]{key}" for index in range(4)]
        and all(columns[path].values.dtype.kind == "f" for path in paths)
    }


def table_quaternions(columns: Mapping[str, Column]) -> Quaternions:
    """Lists of four under a name such as `base_quat`, and neighbours such as `qx`, `qy`, `qz`, `qw`.

    A list called `q` is left alone: robots call their joint positions so.
    """
    found = array_quaternions(columns, ())
    paths = [path for path in columns if columns[path].values.dtype.kind == "f"]
    for start in range(len(paths) - 3):
        four = [match for path in paths[start : start + 4] if (match := _COMPONENT.fullmatch(path))]
        stems = {(match["stem"], match["key"] or "") for match in four}
        if len(four) == 4 and len(stems) == 1 and {match["letter"].lower() for match in four} == COMPONENTS:
            stem, key = stems.pop()
            if _last_word(stem) in STEMS:
                found[stem + key] = tuple(paths[start : start + 4])
    return found


def _last_word(name: str) -> str:
    return re.split(r"[._/ ]", name)[-1].lower()

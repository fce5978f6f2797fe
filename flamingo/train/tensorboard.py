"""TensorBoard's event files, written at once and in order.

The writers at hand keep events in a queue for up to two minutes. A killed run
would lack those from before its last checkpoint, which no one writes again; and
on a full disk the thread behind the queue dies and the next event waits for it
for ever.
"""

from collections.abc import Mapping
import pathlib
import socket
import struct
import time

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c


class EventFile:
  """A new event file in a folder.

  Args:
    directory: the folder, made if absent.
    first_step: TensorBoard forgets what earlier files say of this step and
      later ones.
  """

  def __init__(self, directory: pathlib.Path, *, first_step: int):
    directory.mkdir(parents=True, exist_ok=True)
    # They are read in the order of their names.
    name = f'events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}'
    self._file = (directory / name).open('xb')
    self._append(Event(file_version='brain.Event:2'))
    self._append(Event(
        step=first_step, session_log=SessionLog(status=SessionLog.START)))
    self._file.flush()

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes scalars of a step."""
    values = [
        Summary.Value(tag=name, simple_value=value)
        for name, value in scalars.items()]
    self._append(Event(step=step, summary=Summary(value=values)))
    self._file.flush()

  def close(self) -> None:
    self._file.close()

  def _append(self, event: Event) -> None:
    event.wall_time = time.time()
    data = event.SerializeToString()
    length = struct.pack('<Q', len(data))
    self._file.write(
        length + struct.pack('<I', masked_crc32c(length))
        + data + struct.pack('<I', masked_crc32c(data)))

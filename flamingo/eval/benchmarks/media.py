"""Images of items, read when they are needed; clips as folders of frames.

Videos are not decoded here, so they come as frames, one a second, in a folder
for each: `frames/<video id>/000001.jpg`, `000002.jpg`, ... where number n shows
second n - 1. This makes them:

  ffmpeg -i VIDEO -vf fps=1 -q:v 2 frames/ID/%06d.jpg
"""

from collections.abc import Iterable, Sequence
import functools
import hashlib
import math
import pathlib

from jaxtyping import UInt8
import numpy as np

from flamingo.data import images
from flamingo.eval.benchmarks.item import Item

FRAMES_PER_SECOND = 1
_KINDS = ('.jpg', '.jpeg', '.png')


class Clips:
  """Finds the frames of clips below a data root; lists each folder once."""

  def __init__(self, root: pathlib.Path):
    self._root = root
    self._names = functools.cache(self._list)

  def _list(self, folder: str) -> list[tuple[int, str]]:
    path = self._root / folder
    if not path.is_dir():
      return []
    return sorted(
        (_number(p, folder), p.name) for p in path.iterdir()
        if p.suffix.lower() in _KINDS)

  def frames(
      self, folder: str, start: float = 0.0, end: float = math.inf
  ) -> tuple[str, ...]:
    """Paths of the frames of a clip, relative to the data root.

    Args:
      folder: with the frames of the video, relative to the data root.
      start: of the part that is meant, in seconds.
      end: of it; a part shorter than a frame is the one frame at its start.

    Returns:
      At least one path. Where the folder has no such frame it is the name that
      the first would have, so that reading it says what to do.
    """
    first = math.floor(start * FRAMES_PER_SECOND) + 1
    last = max(first, math.ceil(end * FRAMES_PER_SECOND)) if (
        end < math.inf) else math.inf
    names = [
        name for number, name in self._names(folder) if first <= number <= last]
    return tuple(
        f'{folder}/{name}' for name in names or [f'{first:06d}.jpg'])


def _number(path: pathlib.Path, folder: str) -> int:
  if not path.stem.isdigit():
    raise ValueError(
        f'Expected frames named by their number, as 000001.jpg, in {folder}; '
        f'came {path.name!r}. Make them with: {_ffmpeg(folder)}')
  return int(path.stem)


def evenly(paths: Sequence[str], frames: int) -> tuple[str, ...]:
  """`frames` of the paths, each from the middle of an equal share of them.

  All of them if there are no more than that.
  """
  if len(paths) <= frames:
    return tuple(paths)
  return tuple(
      paths[int((i + 0.5) * len(paths) / frames)] for i in range(frames))


def read_images(
    root: str | pathlib.Path, item: Item, *, frames: int | None = None
) -> list[UInt8[np.ndarray, 'h w 3']]:
  """Reads the images of an item, cut to its box.

  Transparency is dropped, as by those who convert to RGB.

  Args:
    root: data root.
    item: whose images to read.
    frames: of a clip at most so many, see `evenly`; None for all.

  Raises:
    FileNotFoundError: an image is missing; says how frames are made.
    ValueError: an image is no whole picture.
  """
  paths = item.image if frames is None else evenly(item.image, frames)
  return [_read(pathlib.Path(root), path, item) for path in paths]


def _read(root, path, item):
  name = f'{path} of example {item.id}'
  try:
    data = (root / path).read_bytes()
  except FileNotFoundError as error:
    folder = pathlib.PurePosixPath(path).parent
    how = (
        f'Make frames of the video with: {_ffmpeg(folder)}'
        if 'frames' in folder.parts else
        'Fetch the images of this benchmark, or leave the example out.')
    raise FileNotFoundError(
        f'Expected the image {name} below {root.absolute()}; there is none. '
        f'{how}') from error
  picture = images.decode(data, name=name)[..., :3]
  if item.box is None:
    return picture
  x, y, width, height = item.box
  part = picture[max(y, 0) : y + height, max(x, 0) : x + width]
  if not part.size:
    raise ValueError(
        f'Expected a box within {name}, {picture.shape[1]} x '
        f'{picture.shape[0]} pixels; came {item.box}. Fetch the annotations '
        'again.')
  return part


def missing_images(
    root: str | pathlib.Path, items: Iterable[Item]
) -> dict[str, tuple[str, ...]]:
  """Images that are not there, by the id of their item.

  Data rots: videos vanish from where they came. Whoever leaves such examples
  out does it by these ids, and can say how many they were.
  """
  root = pathlib.Path(root)
  there = functools.cache(lambda path: (root / path).is_file())
  absent = {
      item.id: tuple(path for path in item.image if not there(path))
      for item in items}
  return {key: paths for key, paths in absent.items() if paths}


def content_hash(root: str | pathlib.Path, path: str) -> str:
  """What a file holds, as text: equal for copies under other names."""
  data = (pathlib.Path(root) / path).read_bytes()
  return hashlib.blake2b(data, digest_size=16).hexdigest()


def _ffmpeg(folder):
  return f'ffmpeg -i VIDEO -vf fps={FRAMES_PER_SECOND} -q:v 2 {folder}/%06d.jpg'

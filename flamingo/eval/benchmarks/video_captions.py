"""Captions of clips: VATEX and YouCook2."""

from collections.abc import Iterator
import pathlib

from flamingo.eval.benchmarks import files
from flamingo.eval.benchmarks.files import Entry
from flamingo.eval.benchmarks.item import Item
from flamingo.eval.benchmarks.media import Clips


def read_vatex(
    root: pathlib.Path, *, annotations: str, frames: str
) -> Iterator[Item]:
  """Reads `vatex_*.json`: a list with videoID and enCap, ten English captions.

  Field names from the download page of VATEX, as quoted in public code.
  """
  clips = Clips(root)
  for entry in files.read_list(root / annotations):
    captions = tuple(c.strip() for c in entry['enCap'])
    yield Item(
        id=entry['videoID'],
        image=clips.frames(frames.format(entry['videoID'])),
        answer=captions[0] if captions else '',
        references=captions)


def read_youcook2(
    root: pathlib.Path, *, annotations: str, frames: str, subset: str
) -> Iterator[Item]:
  """Reads `youcookii_annotations_trainval.json`: each step is an item.

  Field names as in the file: database by video, with subset and annotations[]
  of id, segment (its start and end in seconds), sentence.

  Args:
    root: data root.
    annotations: path of the file.
    frames: pattern of the folders with a video's frames, of its id.
    subset: 'training' or 'validation'.
  """
  clips = Clips(root)
  videos = Entry(
      files.read_object(root / annotations)['database'],
      f'{annotations}, database')
  for video, fields in videos.items():
    entry = Entry(fields, f'{annotations}, database[{video}]')
    if entry['subset'] != subset:
      continue
    for step in entry.entries('annotations'):
      start, end = map(float, step['segment'])
      yield Item(
          id=f'{video}_{step["id"]}',
          image=clips.frames(frames.format(video), start, end),
          answer=step['sentence'].strip(),
          references=(step['sentence'].strip(),))

"""Questions about clips: MSVD-QA, MSRVTT-QA, iVQA, STAR, NExT-QA."""

from collections.abc import Iterator
import pathlib

from flamingo.eval.benchmarks import files
from flamingo.eval.benchmarks.item import Item
from flamingo.eval.benchmarks.media import Clips
from flamingo.eval.benchmarks.vqa import most_frequent


def read_video_qa(
    root: pathlib.Path, *, annotations: str, frames: str
) -> Iterator[Item]:
  """Reads `*_qa.json` of MSVD-QA and MSRVTT-QA.

  Field names from its authors' code: a list with id, video_id (a number),
  question, answer (a word).
  """
  clips = Clips(root)
  for entry in files.read_list(root / annotations):
    yield Item(
        id=str(entry['id']),
        image=clips.frames(frames.format(entry['video_id'])),
        fields={'question': entry['question'].strip()},
        answer=entry['answer'].strip(),
        references=(entry['answer'].strip(),))


IVQA_ANSWERS = tuple(f'answer{i}' for i in range(1, 6))


def read_ivqa(
    root: pathlib.Path, *, annotations: str, frames: str
) -> Iterator[Item]:
  """Reads `train.csv`, `val.csv`, `test.csv` of iVQA.

  Column names from its authors' code: video_id, question, answer1 to answer5;
  start and end, in seconds, from readers in public repositories.

  Args:
    root: data root.
    annotations: path of the table.
    frames: pattern of the clips' folders, of `video_id`, `start` and `end`.
  """
  clips = Clips(root)
  columns = ('video_id', 'start', 'end', 'question', *IVQA_ANSWERS)
  for row in files.read_csv(root / annotations, columns):
    answers = tuple(
        row[c].strip() for c in IVQA_ANSWERS if row[c].strip())
    start, end = (int(row.number(name)) for name in ('start', 'end'))
    clip = f'{row["video_id"]}_{start}_{end}'
    yield Item(
        id=f'{clip}: {row["question"].strip()}',
        image=clips.frames(frames.format(
            video_id=row['video_id'], start=start, end=end)),
        fields={'question': row['question'].strip()},
        answer=most_frequent(answers),
        references=answers)


def read_star(
    root: pathlib.Path, *, annotations: str, frames: str
) -> Iterator[Item]:
  """Reads `STAR_*.json`: four answers to choose from.

  Field names from its authors' code: question_id ('Interaction_T1_13'),
  question, video_id, start and end in seconds, choices[].choice, answer. That
  the test split has no answer is known from its leaderboard alone.

  Args:
    root: data root.
    annotations: path of the questions.
    frames: pattern of the folders with a video's frames, of its id.
  """
  clips = Clips(root)
  for entry in files.read_list(root / annotations):
    candidates = tuple(
        choice['choice'].strip() for choice in entry.entries('choices'))
    answer = entry.get('answer', '').strip()
    if answer and answer not in candidates:
      raise ValueError(
          f'{entry.where}: expected the answer among {candidates}; came '
          f'{answer!r}. Fetch the file again.')
    yield Item(
        id=entry['question_id'],
        image=clips.frames(
            frames.format(entry['video_id']), entry.number('start'),
            entry.number('end')),
        fields={'question': entry['question'].strip()},
        answer=answer,
        references=(answer,) if answer else (),
        candidates=candidates,
        group=entry['question_id'].split('_')[0])


def read_nextqa(
    root: pathlib.Path, *, annotations: str, videos: str, frames: str,
    more_answers: str | None = None,
) -> Iterator[Item]:
  """Reads the open-ended NExT-QA of the repository NExT-OE.

  Columns as in its files: video, question, answer, qid, type; a JSON of second
  answers by video and question; a JSON of the videos' places by number.

  Args:
    root: data root.
    annotations: path of the table.
    videos: path of `map_vid_vidorID.json`.
    frames: pattern of the clips' folders, of a video's place ('1164/3238737').
    more_answers: path of `add_reference_answer_test.json`.
  """
  clips = Clips(root)
  places = files.read_object(root / videos)
  more = files.read_object(root / more_answers) if more_answers else {}
  columns = ('video', 'question', 'answer', 'qid', 'type')
  for row in files.read_csv(root / annotations, columns):
    second = more.get(row['video'], {}).get(row['qid'])
    answers = [row['answer'].strip(), (second or '').strip()]
    yield Item(
        # In the training split, three numbers of questions come twice.
        id=f'{row["video"]}_{row["qid"]}_{row["type"]}',
        image=clips.frames(frames.format(places[row['video']])),
        fields={'question': _asked(row['question'])},
        answer=answers[0],
        references=tuple(a for a in answers if a),
        group=row['type'])


def read_nextqa_choice(
    root: pathlib.Path, *, annotations: str, videos: str, frames: str
) -> Iterator[Item]:
  """Reads NExT-QA with five answers to choose from.

  Columns as in the files of the repository NExT-QA: those of `read_nextqa`,
  with the number of the answer, and a0 to a4.
  """
  clips = Clips(root)
  places = files.read_object(root / videos)
  choices = tuple(f'a{i}' for i in range(5))
  columns = ('video', 'question', 'answer', 'qid', 'type', *choices)
  for row in files.read_csv(root / annotations, columns):
    candidates = tuple(row[c].strip() for c in choices)
    if row['answer'] not in ('0', '1', '2', '3', '4'):
      raise ValueError(
          f'{row.where}: expected the number of an answer, 0 to 4; came '
          f'{row["answer"]!r}. The open-ended version is another file.')
    answer = candidates[int(row['answer'])]
    yield Item(
        id=f'{row["video"]}_{row["qid"]}_{row["type"]}',
        image=clips.frames(frames.format(places[row['video']])),
        fields={'question': _asked(row['question'])},
        answer=answer,
        references=(answer,),
        candidates=candidates,
        group=row['type'])


def _asked(question: str) -> str:
  """Questions of NExT-QA come without their question mark."""
  return f'{question.strip().rstrip("?")}?'

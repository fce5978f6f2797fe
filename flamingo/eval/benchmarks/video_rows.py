"""Rows of benchmarks about clips.

Splits, metrics and prompts: Flamingo (arXiv:2204.14198), table of benchmarks.
Numbers of tokens are ours: as many as the longest answers need. How frames lie
on disk is told in `media`; where a row's folder is named by the clip with its
start and end, frames are of that clip alone, else of the whole video.
"""

import functools

from flamingo.eval.benchmarks import rareact
from flamingo.eval.benchmarks import video_captions
from flamingo.eval.benchmarks import video_qa
from flamingo.eval.benchmarks.classification import read_kinetics
from flamingo.eval.benchmarks.item import Benchmark, Split

# What every row says about its videos.
FRAMES = (
    'Frames, one a second, of each video: ffmpeg -i VIDEO -vf fps=1 -q:v 2 '
    'frames/ID/%06d.jpg')


def _qa(folder, frames):
  return {
      split: Split(video_qa.read_video_qa, dict(
          annotations=f'{folder}/{split}_qa.json', frames=frames))
      for split in ('train', 'val', 'test')}


ROWS = (
    Benchmark(
        name='msvdqa', splits=_qa('msvdqa', 'msvdqa/frames/vid{}'),
        query='test', support='train', development=True, template='qa',
        metric='top1', max_tokens=5,
        source='train_qa.json, val_qa.json, test_qa.json by way of '
        'https://github.com/xudejing/video-question-answering; videos of MSVD '
        '(youtube_mapping.txt names each vid1 to vid1970; ID is that name) '
        'from https://www.cs.utexas.edu/users/ml/clamp/videoDescription/. '
        f'Terms on these pages. {FRAMES}'),
    Benchmark(
        name='msrvttqa', splits=_qa('msrvttqa', 'msrvttqa/frames/video{}'),
        query='test', support='train', template='qa', metric='top1',
        max_tokens=5,
        source='train_qa.json, val_qa.json, test_qa.json by way of '
        'https://github.com/xudejing/video-question-answering; videos of '
        'MSR-VTT (video0 to video9999; ID is that name), for research alone. '
        f'{FRAMES}'),
    Benchmark(
        name='ivqa',
        splits={
            split: Split(video_qa.read_ivqa, dict(
                annotations=f'ivqa/{split}.csv',
                frames='ivqa/frames/{video_id}_{start}_{end}'))
            for split in ('train', 'val', 'test')},
        query='test', support='train', template='qa', metric='ivqa_accuracy',
        max_tokens=5,
        source='train.csv, val.csv, test.csv by way of '
        'https://github.com/antoyang/just-ask; its clips from YouTube (ID is '
        f'the video, start and end, joined by _). {FRAMES}'),
    Benchmark(
        name='star',
        splits={
            split: Split(
                video_qa.read_star, dict(
                    annotations=f'star/STAR_{split}.json',
                    frames='star/frames/{}'),
                answered=split != 'test')
            for split in ('train', 'val', 'test')},
        query='test', support='train', public='val', template='qa',
        metric='top1', open_ended=False,
        source='STAR_train.json, STAR_val.json, STAR_test.json from '
        'https://bobbywu.com/STAR; videos of Charades, for research that is '
        'not commercial, from https://prior.allenai.org/projects/charades (ID '
        'is the video). Answers of the test are on the server of '
        f'https://eval.ai. {FRAMES}'),
    Benchmark(
        name='nextqa',
        splits={
            split: Split(video_qa.read_nextqa, dict(
                annotations=f'nextqa/open_ended/{split}.csv',
                videos='nextqa/map_vid_vidorID.json',
                frames='nextqa/frames/{}', **more))
            for split, more in (
                ('train', {}), ('val', {}),
                ('test', dict(more_answers='nextqa/open_ended/'
                              'add_reference_answer_test.json')))},
        query='test', support='train', template='qa', metric='wups',
        max_tokens=10,
        source='train.csv, val.csv, test.csv, add_reference_answer_test.json '
        'from https://github.com/doc-doc/NExT-OE, map_vid_vidorID.json and '
        'videos from https://github.com/doc-doc/NExT-QA (ID is the place of '
        f'the video in the map, folder and number). {FRAMES}'),
    Benchmark(
        name='nextqa_choice',
        splits={
            split: Split(video_qa.read_nextqa_choice, dict(
                annotations=f'nextqa/choice/{split}.csv',
                videos='nextqa/map_vid_vidorID.json',
                frames='nextqa/frames/{}'))
            for split in ('train', 'val', 'test')},
        query='val', support='train', template='qa', metric='top1',
        open_ended=False,
        source='train.csv, val.csv, test.csv, map_vid_vidorID.json and videos '
        'from https://github.com/doc-doc/NExT-QA (MIT; ID is the place of the '
        f'video in the map, folder and number). {FRAMES}'),
    Benchmark(
        name='vatex',
        splits={
            split: Split(video_captions.read_vatex, dict(
                annotations=f'vatex/vatex_{name}.json',
                frames='vatex/frames/{}'))
            for split, name in (
                ('train', 'training_v1.0'), ('val', 'validation_v1.0'),
                ('test', 'public_test_english_v1.1'))},
        query='test', support='train', development=True, template='caption',
        metric='cider', max_tokens=30,
        source='vatex_training_v1.0.json, vatex_validation_v1.0.json, '
        'vatex_public_test_english_v1.1.json from '
        'https://eric-xw.github.io/vatex-website/download.html (CC BY 4.0); '
        f'clips from YouTube (ID is videoID). {FRAMES}'),
    Benchmark(
        name='youcook2',
        splits={
            split: Split(
                functools.partial(video_captions.read_youcook2, subset=subset),
                dict(annotations='youcook2/youcookii_annotations_trainval.json',
                     frames='youcook2/frames/{}'))
            for split, subset in (
                ('train', 'training'), ('val', 'validation'))},
        query='val', support='train', template='caption', metric='cider',
        max_tokens=20,
        source='youcookii_annotations_trainval.json from '
        'http://youcook2.eecs.umich.edu/download; videos from YouTube (ID is '
        f'the video). Terms on its page. {FRAMES}'),
    Benchmark(
        name='rareact',
        splits={'test': Split(rareact.read_rareact, dict(
            annotations='rareact/rareact.csv', frames='rareact/frames/{}'))},
        query='test', template='rareact', metric='mwap', open_ended=False,
        shots=(0,),
        source='rareact.csv and videos (rareact.zip) from '
        'https://github.com/antoine77340/RareAct (ID is the video). '
        f'{FRAMES}'),
    Benchmark(
        name='kinetics700',
        splits={
            split: Split(read_kinetics, dict(
                annotations=f'kinetics700/annotations/{split}.csv',
                classes='kinetics700/annotations/train.csv',
                frames='kinetics700/frames/{}'))
            for split in ('train', 'val')},
        query='val', support='train', development=True, validation=10, pool=32,
        by_class=True, template='class', metric='mean_top1_top5',
        open_ended=False, shots=(8, 16),
        source='Kinetics-700-2020: annotations and clips from '
        'https://github.com/cvdfoundation/kinetics-dataset (ID is the name of '
        'the clip, such as -0IErS_cisg_000017_000027; annotations CC BY 4.0). '
        f'{FRAMES}'),
)

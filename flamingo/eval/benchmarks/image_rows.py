"""Rows of benchmarks about single images.

Splits, metrics and prompts: Flamingo (arXiv:2204.14198), table of benchmarks.
Numbers of tokens: 20 for captions, 5 for questions and 10 for TextVQA are
OpenFlamingo's; the paper names none. What each reader knows of a file's fields,
and from where, stands with it.
"""

import functools

from flamingo.eval.benchmarks.classification import read_imagenet
from flamingo.eval.benchmarks.coco import read_karpathy
from flamingo.eval.benchmarks.hateful_memes import read_hateful_memes
from flamingo.eval.benchmarks.item import Benchmark, Split
from flamingo.eval.benchmarks.visdial import read_visdial
from flamingo.eval.benchmarks.vqa import read_textvqa, read_vizwiz, read_vqa

COCO_IMAGES = (
    'images of 2014 (train2014.zip, val2014.zip; for VQAv2 test2015.zip) from '
    'https://cocodataset.org/#download into coco/')
KARPATHY = 'https://cs.stanford.edu/people/karpathy/deepimagesent/'


def _karpathy(annotations, **images):
  return {
      split: Split(
          functools.partial(read_karpathy, subset=split),
          dict(annotations=annotations, images=path))
      for split, path in images.items()}


def _vqa(questions, images, annotations=None):
  paths = dict(questions=questions, images=images, annotations=annotations)
  return Split(
      read_vqa, {k: v for k, v in paths.items() if v is not None},
      answered=annotations is not None)


ROWS = (
    Benchmark(
        name='coco',
        splits=_karpathy(
            'coco/dataset_coco.json',
            train='coco/train2014/{filename}',
            **dict.fromkeys(
                ('restval', 'val', 'test'), 'coco/val2014/{filename}')),
        query='test', support='train', development=True, validation=5000,
        template='caption', metric='cider', max_tokens=20,
        source=f'dataset_coco.json (caption_datasets.zip) from {KARPATHY}; '
        f'{COCO_IMAGES}. Annotations CC BY 4.0; images under the terms of '
        'Flickr.'),
    Benchmark(
        name='flickr30k',
        splits=_karpathy(
            'flickr30k/dataset_flickr30k.json',
            **dict.fromkeys(
                ('train', 'val', 'test'),
                'flickr30k/flickr30k-images/{filename}')),
        query='test', support='train', template='caption', metric='cider',
        max_tokens=20,
        source='dataset_flickr30k.json (caption_datasets.zip) from '
        f'{KARPATHY}; images by request from '
        'https://shannon.cs.illinois.edu/DenotationGraph/ for research that is '
        'not commercial.'),
    Benchmark(
        name='vqav2',
        splits={
            **{split: _vqa(
                f'vqav2/v2_OpenEnded_mscoco_{split}2014_questions.json',
                f'coco/{split}2014/COCO_{split}2014_{{:012d}}.jpg',
                f'vqav2/v2_mscoco_{split}2014_annotations.json')
               for split in ('train', 'val')},
            **{split: _vqa(
                f'vqav2/v2_OpenEnded_mscoco_{name}_questions.json',
                'coco/test2015/COCO_test2015_{:012d}.jpg')
               for split, name in (
                   ('test-dev', 'test-dev2015'), ('test', 'test2015'))}},
        query='test-dev', support='train', public='val', development=True,
        template='qa', metric='vqa_accuracy', max_tokens=5,
        source='Questions and annotations from https://visualqa.org/'
        f'download.html (CC BY 4.0); {COCO_IMAGES}. Answers of the test are on '
        'the server of https://eval.ai.'),
    Benchmark(
        name='okvqa',
        splits={
            split: _vqa(
                f'okvqa/OpenEnded_mscoco_{split}2014_questions.json',
                f'coco/{split}2014/COCO_{split}2014_{{:012d}}.jpg',
                f'okvqa/mscoco_{split}2014_annotations.json')
            for split in ('train', 'val')},
        query='val', support='train', development=True, template='qa',
        metric='vqa_accuracy', max_tokens=5,
        source='Questions and annotations, version 1.1, from '
        f'https://okvqa.allenai.org/download.html; {COCO_IMAGES}. Terms on '
        'its page.'),
    Benchmark(
        name='textvqa',
        splits={
            split: Split(
                read_textvqa, dict(
                    annotations=f'textvqa/TextVQA_0.5.1_{split}.json',
                    images=f'textvqa/{folder}/{{}}.jpg'),
                answered=split != 'test')
            for split, folder in (
                ('train', 'train_images'), ('val', 'train_images'),
                ('test', 'test_images'))},
        query='val', support='train', template='qa', metric='vqa_accuracy',
        max_tokens=10,
        source='Annotations 0.5.1 and images (train_val_images.zip, '
        'test_images.zip) from https://textvqa.org/dataset/ (CC BY 4.0).'),
    Benchmark(
        name='vizwiz',
        splits={
            split: Split(
                read_vizwiz, dict(
                    annotations=f'vizwiz/Annotations/{split}.json',
                    images=f'vizwiz/{split}/{{}}'),
                answered=split != 'test')
            for split in ('train', 'val', 'test')},
        # Its test-dev is a part of `test`, which the server knows.
        query='test', support='train', public='val',
        template='qa_or_unanswerable', metric='vqa_accuracy', max_tokens=5,
        source='Annotations.zip and images (train.zip, val.zip, test.zip) from '
        'https://vizwiz.org/tasks-and-datasets/vqa/ (CC BY 4.0). Answers of '
        'the test are on the server of https://eval.ai.'),
    Benchmark(
        name='visdial',
        splits={
            'train': Split(read_visdial, dict(
                dialogs='visdial/visdial_1.0_train.json',
                images='coco/train2014/COCO_train2014_{:012d}.jpg',
                other_images='coco/val2014/COCO_val2014_{:012d}.jpg')),
            'val': Split(read_visdial, dict(
                dialogs='visdial/visdial_1.0_val.json',
                images='visdial/VisualDialog_val2018/'
                'VisualDialog_val2018_{:012d}.jpg',
                dense='visdial/visdial_1.0_val_dense_annotations.json'))},
        query='val', support='train', template='visdial', metric='ndcg',
        # 32 shots do not fit the paper's context.
        open_ended=False, shots=(0, 4, 8, 16),
        source='Dialogues, dense annotations and images of 2018 from '
        f'https://visualdialog.org/data (CC BY 4.0); {COCO_IMAGES}.'),
    Benchmark(
        name='hateful_memes',
        splits={
            split: Split(read_hateful_memes, dict(
                annotations=f'hateful_memes/{split}.jsonl',
                images='hateful_memes/img/{}'))
            for split in (
                'train', 'dev_seen', 'test_seen', 'dev_unseen', 'test_unseen')},
        query='test_seen', support='train', template='hateful_memes',
        metric='roc_auc', open_ended=False,
        source='By request from https://hatefulmemeschallenge.com, under an '
        'agreement that forbids passing them on.'),
    Benchmark(
        name='imagenet',
        splits={
            split: Split(read_imagenet, dict(
                images=f'imagenet/{split}',
                names='imagenet/LOC_synset_mapping.txt'))
            for split in ('train', 'val')},
        query='val', support='train', development=True, validation=10, pool=32,
        by_class=True, template='class', metric='top1', open_ended=False,
        shots=(8, 16),
        source='ILSVRC2012 and LOC_synset_mapping.txt from '
        'https://image-net.org or its challenge on Kaggle, a folder of images '
        'for each class, as torchvision expects; by request, for research that '
        'is not commercial.'),
)

"""Tiny files in the official format of each benchmark, written for tests.

What is in them is made up; names of files and fields are the benchmarks' own.
"""

import csv
import json
import pathlib

import numpy as np
from PIL import Image


def picture(path: pathlib.Path, seed: int = 0, size: tuple = (7, 5)) -> None:
  """A PNG (or JPEG, by the name) of random pixels, wide and high as `size`."""
  path.parent.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(seed)
  pixels = rng.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
  Image.fromarray(pixels).save(path)


def frames(folder: pathlib.Path, count: int) -> None:
  """Frames 000001.jpg, 000002.jpg, ... of a clip."""
  for i in range(1, count + 1):
    picture(folder / f'{i:06d}.jpg', seed=i)


def to_json(path: pathlib.Path, value) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value), encoding='utf-8')


def to_lines(path: pathlib.Path, values) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(
      ''.join(json.dumps(v) + '\n' for v in values), encoding='utf-8')


def to_csv(path: pathlib.Path, rows) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('w', newline='', encoding='utf-8') as file:
    writer = csv.DictWriter(file, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)


def _karpathy(path, images):
  """images: (filename, filepath or None, split, captions)."""
  entries = []
  for i, (filename, folder, split, captions) in enumerate(images):
    entry = {
        'filename': filename, 'split': split, 'imgid': i, 'sentids': [i],
        'sentences': [
            {'raw': c, 'tokens': c.split(), 'imgid': i, 'sentid': j}
            for j, c in enumerate(captions)]}
    if folder:
      entry.update(filepath=folder, cocoid=500 + i)
    entries.append(entry)
  to_json(path, {'images': entries, 'dataset': path.stem[8:]})


def coco(root):
  images = []
  for i, split in enumerate(
      ('train', 'train', 'restval', 'val', 'test', 'test')):
    folder = 'train2014' if split == 'train' else 'val2014'
    name = f'COCO_{folder}_{500 + i:012d}.jpg'
    picture(root / 'coco' / folder / name, i)
    images.append(
        (name, folder, split, [f'a dog {i}.', f'The dog "{i}" runs. ']))
  _karpathy(root / 'coco/dataset_coco.json', images)


def flickr30k(root):
  images = []
  for i, split in enumerate(('train', 'val', 'test')):
    name = f'10009{i}.jpg'
    picture(root / 'flickr30k/flickr30k-images' / name, i)
    images.append((name, None, split, [f'Two men {i}.'] * 2))
  _karpathy(root / 'flickr30k/dataset_flickr30k.json', images)


def _vqa(root, split, questions, annotations=None, count=3, prefix='COCO'):
  asked, answered = [], []
  for i in range(count):
    image = 42 + i // 2  # two questions about the first image
    picture(root / f'coco/{split}/{prefix}_{split}_{image:012d}.jpg', image)
    number = 1000 * image + i
    asked.append({
        'image_id': image, 'question': f'What is it, {i}?',
        'question_id': number})
    said = ['cat'] + ['dog'] * 6 + ['a dog'] * 3
    answered.append({
        'question_id': number, 'image_id': image, 'question_type': 'what is',
        'answer_type': 'other', 'multiple_choice_answer': 'dog',
        'answers': [
            {'answer': a, 'answer_confidence': 'yes', 'answer_id': j + 1}
            for j, a in enumerate(said)]})
  head = {'info': {}, 'license': {}, 'data_type': 'mscoco'}
  to_json(questions, {**head, 'questions': asked})
  if annotations is not None:
    # In another order: the two are joined by number.
    to_json(annotations, {**head, 'annotations': answered[::-1]})


def vqav2(root):
  for split in ('train2014', 'val2014'):
    _vqa(root, split,
         root / f'vqav2/v2_OpenEnded_mscoco_{split}_questions.json',
         root / f'vqav2/v2_mscoco_{split}_annotations.json')
  for name in ('test-dev2015', 'test2015'):
    _vqa(root, 'test2015',
         root / f'vqav2/v2_OpenEnded_mscoco_{name}_questions.json')


def okvqa(root):
  for split in ('train2014', 'val2014'):
    _vqa(root, split, root / f'okvqa/OpenEnded_mscoco_{split}_questions.json',
         root / f'okvqa/mscoco_{split}_annotations.json')


def textvqa(root):
  for split, folder in (
      ('train', 'train_images'), ('val', 'train_images'),
      ('test', 'test_images')):
    entry = {
        'question_id': len(split), 'image_id': f'0a{split}', 'set_name': split,
        'question': 'what does it say?', 'image_classes': ['Sign'],
        'image_width': 7, 'image_height': 5,
        'question_tokens': ['what', 'does', 'it', 'say']}
    if split != 'test':
      entry['answers'] = ['stop'] * 9 + ['halt']
    picture(root / f'textvqa/{folder}/0a{split}.jpg')
    to_json(root / f'textvqa/TextVQA_0.5.1_{split}.json', {
        'dataset_type': split, 'dataset_name': 'textvqa',
        'dataset_version': '0.5.1', 'data': [entry]})


def vizwiz(root):
  for split in ('train', 'val', 'test'):
    name = f'VizWiz_{split}_00000000.jpg'
    picture(root / f'vizwiz/{split}/{name}')
    entry = {'image': name, 'question': ' What is this?'}
    if split != 'test':
      entry.update(answerable=1, answer_type='other', answers=[
          {'answer': a, 'answer_confidence': 'yes'}
          for a in ['unanswerable'] * 4 + ['soup'] * 6])
    to_json(root / f'vizwiz/Annotations/{split}.json', [entry])


def _dialogs(split, images, rounds=4):
  answers = ['yes', 'no', 'two of them', 'red']
  return {'version': '1.0', 'split': split, 'data': {
      'questions': ['is it big', 'how many are there', 'what color is it'],
      'answers': answers,
      'dialogs': [{
          'image_id': image, 'caption': 'a bus on a street ',
          'dialog': [
              {'question': r % 3, 'answer': (r + 1) % 4,
               'answer_options': [3, 1, (r + 1) % 4, 2], 'gt_index': 2}
              for r in range(rounds)]} for image in images]}}


def visdial(root):
  picture(root / f'coco/train2014/COCO_train2014_{31:012d}.jpg', 31)
  picture(root / f'coco/val2014/COCO_val2014_{32:012d}.jpg', 32)
  to_json(root / 'visdial/visdial_1.0_train.json', _dialogs('train', (31, 32)))
  folder = root / 'visdial/VisualDialog_val2018'
  picture(folder / f'VisualDialog_val2018_{77:012d}.jpg', 77)
  to_json(root / 'visdial/visdial_1.0_val.json', _dialogs('val', (77,)))
  to_json(root / 'visdial/visdial_1.0_val_dense_annotations.json', [
      {'image_id': 77, 'round_id': 3, 'gt_relevance': [0.0, 0.2, 1.0, 0.4]}])


def hateful_memes(root):
  for i, split in enumerate(
      ('train', 'dev_seen', 'test_seen', 'dev_unseen', 'test_unseen')):
    lines = []
    for label in (0, 1):
      number = 1000 * (i + 1) + label
      picture(root / f'hateful_memes/img/{number:05d}.png', number)
      lines.append({
          'id': number, 'img': f'img/{number:05d}.png', 'label': label,
          'text': f'look who it is {label}'})
    to_lines(root / f'hateful_memes/{split}.jsonl', lines)


def imagenet(root):
  # 'car' is a part of 'car wheel', and two classes are cranes to WordNet.
  (root / 'imagenet').mkdir(parents=True, exist_ok=True)
  (root / 'imagenet/LOC_synset_mapping.txt').write_text(
      'n01440764 tench, Tinca tinca\nn02958343 car, auto\n'
      'n02974003 car wheel\nn02012849 crane\nn03126707 crane\n')
  for split in ('train', 'val'):
    for i, folder in enumerate(('n01440764', 'n02958343', 'n02974003')):
      for j in range(2):
        picture(
            root / f'imagenet/{split}/{folder}/{folder}_{split}{j}.JPEG',
            10 * i + j)


def _qa(root, name, video):
  for i, split in enumerate(('train', 'val', 'test')):
    entries = [
        {'id': 10 * i + j, 'video_id': 1 + i, 'category_id': 3,
         'question': 'what is a man doing?', 'answer': 'cook'}
        for j in range(2)]
    to_json(root / f'{name}/{split}_qa.json', entries)
    frames(root / f'{name}/frames/{video}{1 + i}', 3)


def msvdqa(root):
  _qa(root, 'msvdqa', 'vid')


def msrvttqa(root):
  _qa(root, 'msrvttqa', 'video')


def ivqa(root):
  for split in ('train', 'val', 'test'):
    said = ['knife', 'sharp knife', 'knife', 'blade', 'knife']
    to_csv(root / f'ivqa/{split}.csv', [{
        'video_id': f'-{split}', 'start': 12, 'end': 21,
        'question': 'What cuts, in the end?',
        **{f'answer{i}': a for i, a in enumerate(said, 1)},
        **{f'conf{i}': 1 for i in range(1, 6)}}])
    frames(root / f'ivqa/frames/-{split}_12_21', 2)


def star(root):
  for split in ('train', 'val', 'test'):
    entry = {
        'question_id': f'Interaction_T1_{len(split)}', 'video_id': 'BRVTO',
        'question': 'Which object was tidied up by the person?',
        'start': 1.6, 'end': 3.2, 'answer': 'The blanket.',
        'question_program': [], 'situations': {},
        'choices': [
            {'choice_id': i, 'choice': f'The {thing}.', 'choice_program': []}
            for i, thing in enumerate(('table', 'blanket', 'box', 'door'))]}
    if split == 'test':
      del entry['answer']
    to_json(root / f'star/STAR_{split}.json', [entry])
  frames(root / 'star/frames/BRVTO', 6)


def _nextqa_videos(root):
  to_json(root / 'nextqa/map_vid_vidorID.json', {'4924794333': '0007/49247'})
  frames(root / 'nextqa/frames/0007/49247', 2)


def nextqa(root):
  _nextqa_videos(root)
  head = {
      'video': '4924794333', 'frame_count': 1058, 'width': 640, 'height': 360}
  for split in ('train', 'val', 'test'):
    to_csv(root / f'nextqa/open_ended/{split}.csv', [
        {**head, 'question': 'is the baby old enough', 'answer': 'no',
         'qid': 4, 'type': 'DB'}])
  to_json(root / 'nextqa/open_ended/add_reference_answer_test.json',
          {'4924794333': {'4': 'nope'}})


def nextqa_choice(root):
  _nextqa_videos(root)
  head = {
      'video': '4924794333', 'frame_count': 1058, 'width': 640, 'height': 360}
  for split in ('train', 'val', 'test'):
    to_csv(root / f'nextqa/choice/{split}.csv', [
        {**head, 'question': 'why did he run', 'answer': 3, 'qid': 6,
         'type': 'CW', 'a0': 'late', 'a1': 'scared', 'a2': 'for fun',
         'a3': 'to catch it', 'a4': 'cold'}])


def vatex(root):
  for split, name in (
      ('a', 'training_v1.0'), ('b', 'validation_v1.0'),
      ('c', 'public_test_english_v1.1')):
    clip = f'_{split}-AbCdEfGh_000004_000014'
    to_json(root / f'vatex/vatex_{name}.json', [{
        'videoID': clip, 'enCap': [f'A man juggles {i}.' for i in range(10)]}])
    frames(root / f'vatex/frames/{clip}', 2)


def youcook2(root):
  to_json(root / 'youcook2/youcookii_annotations_trainval.json', {'database': {
      f'video{subset}': {
          'duration': 20.5, 'subset': subset, 'recipe_type': '113',
          'video_url': 'none', 'annotations': [
              {'id': 0, 'segment': [0, 3], 'sentence': 'grill the tomatoes'},
              {'id': 1, 'segment': [4, 6], 'sentence': 'add oil to a pan'}]}
      for subset in ('training', 'validation')}})
  for subset in ('training', 'validation'):
    frames(root / f'youcook2/frames/video{subset}', 8)


def rareact(root):
  rows = []
  actions = [('cut', 'keyboard'), ('wash', 'eggs'), ('fry', 'orange')]
  for i in range(6):
    verb, noun = actions[i % 3]
    rows.append({
        'id': i, 'video_id': f'-vid{i // 3}', 'start': i, 'end': i + 2,
        'class_id': i % 3, 'verb': verb, 'noun': noun, 'annotation': i % 5})
  to_csv(root / 'rareact/rareact.csv', rows)
  for i in range(2):
    frames(root / f'rareact/frames/-vid{i}', 8)


def kinetics700(root):
  for split in ('train', 'val'):
    rows = [
        {'label': label, 'youtube_id': f'-0I{split}{i}', 'time_start': 17,
         'time_end': 27, 'split': split}
        for i, label in enumerate(('shaking hands', 'abseiling'))]
    to_csv(root / f'kinetics700/annotations/{split}.csv', rows)
    for row in rows:
      frames(
          root / f'kinetics700/frames/{row["youtube_id"]}_000017_000027', 2)


def winoground(root):
  to_lines(root / 'winoground/examples.jsonl', [
      {'id': i, 'image_0': f'ex_{i}_img_0', 'image_1': f'ex_{i}_img_1',
       'caption_0': 'an old man kisses a young girl',
       'caption_1': 'a young girl kisses an old man', 'tag': 'Noun',
       'secondary_tag': '', 'num_main_preds': 1, 'collapsed_tag': 'Object'}
      for i in range(2)])
  for i in range(2):
    for j in range(2):
      picture(root / f'winoground/images/ex_{i}_img_{j}.png', 2 * i + j)


def _pope(kind):
  def write(root):
    name = f'COCO_val2014_{310196:012d}.jpg'
    picture(root / f'coco/val2014/{name}', 9)
    to_lines(root / f'pope/coco_pope_{kind}.json', [
        {'question_id': i + 1, 'image': name,
         'text': f'Is there a {thing} in the image?', 'label': label}
        for i, (thing, label) in enumerate(
            (('snowboard', 'yes'), ('car', 'no')))])
  return write


def _aro(file, kind):
  def write(root):
    picture(root / 'aro/images/2382.jpg', 3, size=(20, 10))
    to_json(root / f'aro/{file}.json', [{
        'image_id': '2382', 'image_path': '2382.jpg', 'bbox_x': 4, 'bbox_y': 2,
        'bbox_w': 9, 'bbox_h': 5, 'true_caption': 'the door is on the wall',
        'false_caption': 'the wall is on the door', **kind}])
  return write


def _order(file, image):
  def write(root):
    picture(root / image)
    to_json(root / f'aro/{file}.json', [{
        'image': image.split('/', 1)[1],
        'caption_options': ['a man with a hat', 'man a hat with a']}])
  return write


def easy_vqa(root):
  folder = root / 'easy_vqa'
  for split, count in (('train', 5), ('test', 3)):
    rows = []
    for i in range(count):
      picture(folder / split / f'images/{i}.png', seed=i + 10 * len(rows))
      rows += [['what shape is in the image?', 'circle', i],
               ['is there a red shape?', 'no', i]]
    to_json(folder / split / 'questions.json', rows)
  (folder / 'answers.txt').write_text('circle\nred\nyes\nno\n')


def _episodes(kind, ways, rounds=3):
  def write(root):
    names, seeds = ['dax', 'wug', 'fep', 'zup', 'kiv'][:ways], {}
    for split in ('validation', 'test'):
      lines = []
      for i in range(3):
        shown = [(name, k) for k in range(rounds) for name in names]
        for name, k in (*shown, ('query', i)):
          seed = seeds.setdefault((name, k), len(seeds))  # no two are one
          picture(root / f'emoji/images/{name}-{k}.png', seed=seed)
        lines.append({
            'image': f'query-{i}.png', 'answer': names[i % ways],
            'candidates': names, 'demonstrations': [
                {'image': f'{name}-{k}.png', 'answer': name}
                for name, k in shown]})
      to_lines(root / f'emoji/{kind}_{ways}way_{split}.jsonl', lines)
  return write


def emoji_names(root):
  names = ['dog face', 'dog', 'cat', 'fox', 'lion']
  for split in ('validation', 'test'):
    for i, _ in enumerate(names):
      picture(root / f'emoji/images/{i}.png', seed=i)
      picture(root / f'emoji/images/{i}-again.png', seed=i + 50)
    to_lines(root / f'emoji/names_{split}.jsonl', [
        {'image': f'{i}.png', 'answer': name, 'candidates': names}
        for i, name in enumerate(names)])
    to_lines(root / f'emoji/names_{split}_support.jsonl', [
        {'image': f'{i}-again.png', 'answer': name, 'candidates': names}
        for i, name in enumerate(names)])


# What writes each benchmark's files below a data root.
WRITERS = {
    'coco': coco, 'flickr30k': flickr30k, 'vqav2': vqav2, 'okvqa': okvqa,
    'textvqa': textvqa, 'vizwiz': vizwiz, 'visdial': visdial,
    'hateful_memes': hateful_memes, 'imagenet': imagenet, 'msvdqa': msvdqa,
    'msrvttqa': msrvttqa, 'ivqa': ivqa, 'star': star, 'nextqa': nextqa,
    'nextqa_choice': nextqa_choice, 'vatex': vatex, 'youcook2': youcook2,
    'rareact': rareact, 'kinetics700': kinetics700, 'winoground': winoground,
    'pope_random': _pope('random'), 'pope_popular': _pope('popular'),
    'pope_adversarial': _pope('adversarial'),
    'aro_relation': _aro('visual_genome_relation', {'relation_name': 'on'}),
    'aro_attribution': _aro(
        'visual_genome_attribution', {'attributes': ['red', 'old']}),
    'aro_coco_order': _order('coco_order', 'coco/val2014/COCO_val2014_9.jpg'),
    'aro_flickr_order': _order(
        'flickr_order', 'flickr30k/flickr30k-images/9.jpg'),
    'easy_vqa': easy_vqa, 'emoji_names': emoji_names,
    **{f'emoji_{kind}_{ways}way': _episodes(kind, ways)
       for kind in ('binding', 'category') for ways in (2, 5)},
}

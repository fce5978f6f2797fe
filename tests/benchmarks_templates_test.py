"""Prompts, as the paper and its successors write them."""

import dataclasses

from flamingo.data import encode
from flamingo.data.tokenizer import Tokenizer
from flamingo.eval import benchmarks
from flamingo.eval.benchmarks import TEMPLATES, Item, Template
import pytest

TOKENIZER = Tokenizer.bytes()

ITEM = Item(
    id='7', image=('a.png',), answer='yes', references=('yes',),
    fields={'question': 'is it big?', 'caption': 'a bus', 'text': 'oh {no}'},
    turns=(('is it red?', 'no'), ('where is it?', 'on a road')))


def demonstration(way, key, item=ITEM):
  template = TEMPLATES[way][key]
  return (template.instruction + template.before + '<image>'
          + template.demonstration(item))


def test_every_way_has_a_template_for_every_kind_of_task():
  assert (TEMPLATES['flamingo'].keys() == TEMPLATES['openflamingo'].keys()
          == TEMPLATES['idefics'].keys())


@pytest.mark.parametrize('key, expected', [
    ('caption', '<image>Output: yes'),
    ('qa', '<image>Question: is it big? Answer: yes'),
    ('class', '<image>yes'),
    ('name', '<image> yes'),
    ('hateful_memes',
     '<image>is an image with written: "oh {no}" on it. Is it hateful? '
     'Answer: yes'),
    ('visdial',
     '<image>a bus Question: is it red? Answer: no Question: where is it? '
     'Answer: on a road Question: is it big? Answer: yes'),
    ('rareact', '<image>Caption: yes')])
def test_the_paper_s_prompts(key, expected):
  assert demonstration('flamingo', key) == expected


@pytest.mark.parametrize('key, expected', [
    ('caption', '<image>Output:yes'),
    ('qa', '<image>Question:is it big? Short answer:yes'),
    ('class', '<image>Output:yes'),
    ('name', '<image>Output:yes'),
    ('hateful_memes',
     "<image>is an image with: 'oh {no}' written on it. Is it hateful? "
     'Answer:yes')])
def test_the_prompts_of_openflamingo(key, expected):
  assert demonstration('openflamingo', key) == expected


@pytest.mark.parametrize('key, expected', [
    ('caption', 'Image:<image>Caption: yes\n'),
    ('qa',
     'Instruction: provide an answer to the question. Use the image to answer.'
     '\nImage:<image>Question: is it big? Answer: yes\n'),
    ('qa_or_unanswerable',
     'Task: Answer the questions based on the image when possible, otherwise '
     'say unanswerable.\nImage:<image>Question: is it big? Answer: yes\n'),
    ('class', '<image>a photo of a yes.'),
    ('name', '<image>a photo of a yes.'),
    ('visdial',
     '<image>a bus. Question: is it red? Answer: no. Question: where is it? '
     'Answer: on a road. Question: is it big? Answer: yes.')])
def test_the_prompts_of_idefics(key, expected):
  assert demonstration('idefics', key) == expected


@pytest.mark.parametrize('way', TEMPLATES)
def test_a_demonstration_is_its_question_then_its_answer(way):
  for template in TEMPLATES[way].values():
    question = template.question(ITEM)
    assert template.demonstration(ITEM) == (
        question + template.completion('yes') + template.end)
    assert question == question.rstrip()


@pytest.mark.parametrize('way', TEMPLATES)
def test_the_answer_of_what_is_asked_is_nowhere_in_the_prompt(way):
  other = dataclasses.replace(ITEM, answer='no', references=('no',))
  for template in TEMPLATES[way].values():
    assert prompt(template, [ITEM], ITEM) == prompt(template, [ITEM], other)


def test_a_query_that_ends_in_a_space_is_refused():
  with pytest.raises(ValueError, match="'Output: '.*front of `answer`"):
    Template(query='Output: ')


def test_an_answer_without_its_place_is_refused():
  for answer in ('', ' {caption}', ' {answer} {caption}'):
    with pytest.raises(ValueError, match='{answer}'):
      Template(query='Output:', answer=answer)


def test_a_field_that_an_example_lacks_is_named_with_the_example():
  item = dataclasses.replace(ITEM, fields={'caption': 'a bus'})
  with pytest.raises(ValueError, match=r"Example 7.*\['question'\].*caption"):
    TEMPLATES['flamingo']['qa'].question(item)


# Documents.


def prompt(template, demonstrations, query, **more):
  """The prompt as text, by way of the tokens a model reads."""
  document = benchmarks.to_document(
      template, demonstrations, query, image=lambda item: 3, **more)
  example = encode.encode(document, TOKENIZER, max_images=len(document))
  images = 0 if example.images is None else len(example.images)
  text = TOKENIZER.decode(example.tokens.tolist())
  assert text.count('<image>') == images
  return text


def item(answer):
  return Item(id=answer, image=('a',), answer=answer, references=(answer,))


SHOWN = [item('a dog'), item('a cat')]
ASKED = item('a hen')


def test_a_prompt_of_the_paper():
  assert prompt(TEMPLATES['flamingo']['caption'], SHOWN, ASKED) == (
      '<bos><image>Output: a dog<EOC><image>Output: a cat<EOC>'
      '<image>Output:')


def test_openflamingo_writes_a_newline_behind_the_end_of_a_demonstration():
  assert prompt(TEMPLATES['openflamingo']['caption'], SHOWN, ASKED) == (
      '<bos><image>Output:a dog<EOC>\n<image>Output:a cat<EOC>\n'
      '<image>Output:')
  assert prompt(TEMPLATES['openflamingo']['class'], SHOWN, ASKED) == (
      '<bos><image>Output:a dog<EOC><image>Output:a cat<EOC><image>Output:')


def test_idefics_writes_before_the_image_and_an_instruction_once():
  template = dataclasses.replace(
      TEMPLATES['idefics']['caption'], instruction='Task: describe.\n')
  assert prompt(template, SHOWN, ASKED) == (
      '<bos>Task: describe.\nImage:<image>Caption: a dog\n<EOC>'
      'Image:<image>Caption: a cat\n<EOC>Image:<image>Caption:')


def test_without_demonstrations_a_prompt_is_the_instruction_and_the_query():
  template = dataclasses.replace(
      TEMPLATES['idefics']['caption'], instruction='Task: describe.\n')
  assert prompt(template, [], ASKED) == (
      '<bos>Task: describe.\nImage:<image>Caption:')


def test_text_only_demonstrations_keep_their_text_and_lose_their_images():
  assert prompt(
      TEMPLATES['flamingo']['caption'], SHOWN, ASKED, text_only=True) == (
          '<bos>Output: a dog<EOC>Output: a cat<EOC><image>Output:')


def test_a_prompt_has_one_tag_for_each_image_it_shows():
  document = benchmarks.to_document(
      TEMPLATES['flamingo']['caption'], SHOWN, ASKED,
      image=lambda item: item.id)
  assert [chunk.image for chunk in document] == ['a dog', 'a cat', 'a hen']


@pytest.mark.parametrize('tag', ['<image>', '<EOC>'])
def test_a_caption_with_a_tag_reaches_encode_and_is_refused_there(tag):
  with pytest.raises(ValueError, match=f'without the tag .{tag}'):
    prompt(
        TEMPLATES['flamingo']['caption'], [item(f'a {tag} dog')], ASKED)

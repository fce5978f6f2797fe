"""The result of a benchmark for people: on the terminal, and as Markdown."""

from collections.abc import Iterator, Mapping


def lines(name: str, one: Mapping) -> Iterator[str]:
  """A subject's result as lines of text."""
  yield f'{name}: {one["about"]} ({one["took"]:.0f} s)'
  if 'error' in one:
    yield f'  failed: {one["error"]}'
    return
  for what, seconds in one['seconds'].items():
    yield f'  {what:<58}{time(seconds):>12}'
  for what, ratio in one['ratios'].items():
    yield f'  {what:<58}{quotient(ratio):>12}  {_verdict(ratio)}'
  for what, fact in one['facts'].items():
    yield f'  {what}: {_fact(fact)}'
  for note in one['notes']:
    yield f'  {note}'


def markdown(document: Mapping) -> str:
  """Every ratio in one table, then every time, then what they depend on."""
  machine = document['machine']
  text = [
      f"Measured in one run on {machine['device']}, {machine['cores']} cores, "
      f"{_versions(machine)}.", '',
      '| subject | ratio | measured | goal | |', '|---|---|---:|---|---|']
  subjects = document['subjects']
  for name, one in subjects.items():
    if 'error' in one:
      error = ' '.join(one['error'].split()).replace('|', '/')
      text.append(f'| {name} | failed: {error} | | | |')
      continue
    for what, ratio in one['ratios'].items():
      text.append(
          f'| {name} | {what} | {quotient(ratio)} | {goal(ratio)} | '
          f'{_met(ratio)} |')
  for name, one in subjects.items():
    if 'error' in one:
      continue
    text += ['', f'### {name}', '', one['about'] + '.', '',
             '| what | time |', '|---|---:|']
    text += [f'| {what} | {time(s)} |' for what, s in one['seconds'].items()]
    text += ['', '; '.join(
        f'{what}: {_fact(fact)}' for what, fact in one['facts'].items()) + '.']
    for note in one['notes']:
      text += ['', note]
  return '\n'.join(text) + '\n'


def time(seconds: float) -> str:
  """A time in the unit that suits it."""
  if abs(seconds) < 1e-3:
    return f'{seconds * 1e6:.0f} us'
  if abs(seconds) < 1:
    return f'{seconds * 1e3:.3g} ms'
  return f'{seconds:,.2f} s' if abs(seconds) < 100 else f'{seconds:,.0f} s'


def quotient(ratio: Mapping) -> str:
  """A ratio: small ones as a share, others as a factor."""
  value = ratio['value']
  if 'share' in ratio['name']:
    return f'{value:.2%}' if value < 0.1 else f'{value:.0%}'
  return f'{value:.2f} x' if abs(value) < 100 else f'{value:,.0f} x'


def goal(ratio: Mapping) -> str:
  """What a ratio should be; nothing where it is only of interest."""
  if ratio['goal'] is None:
    return ''
  written = quotient({'name': ratio['name'], 'value': ratio['goal']})
  return f'at {"most" if ratio["at_most"] else "least"} {written}'


def _met(ratio: Mapping) -> str:
  return {None: '', True: 'met', False: 'missed'}[ratio['met']]


def _verdict(ratio: Mapping) -> str:
  of = f'{ratio["over"]} / {ratio["under"]}'
  if ratio['goal'] is None:
    return of
  return f'{goal(ratio)}, {_met(ratio)}: {of}'


def _fact(fact: object) -> str:
  if isinstance(fact, float):
    return f'{fact:.4g}'
  if isinstance(fact, Mapping):
    return ', '.join(f'{k} {_fact(v)}' for k, v in fact.items())
  return str(fact)


def _versions(machine: Mapping) -> str:
  return ', '.join(f'{k} {v}' for k, v in machine['versions'].items() if v)

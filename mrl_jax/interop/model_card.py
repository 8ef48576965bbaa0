"""Writes the model card of an export."""

from collections.abc import Mapping, Sequence
import pathlib
import textwrap
from typing import Any

from mrl_jax.terminal import tables

_FOLDER = pathlib.Path(__file__).parent
# What the card of towers shows of a set, where it has it.
_METRICS = {
  't2i_recall10': 'text to image, recall@10',
  'i2t_recall10': 'image to text, recall@10',
  'zero_shot': 'zero-shot top-1',
  'knn1': '1-NN',
}


def text(
  about: Mapping[str, Any],
  preprocess: Mapping[str, Any],
  *,
  has_rule: bool = False,
) -> str:
  """The model card as Markdown.

  Args:
    about: content of the export's config.json.
    preprocess: content of its preprocess.json.
    has_rule: whether it has a cascade.json.
  """
  return _render(
    'model_card.md.jinja', about=about, preprocess=preprocess, has_rule=has_rule
  )


def towers_text(
  about: Mapping[str, Any],
  preprocess: Mapping[str, Any],
  records: Sequence[Mapping[str, Any]],
  *,
  style: str,
) -> str:
  """The model card of towers of images and texts, as Markdown.

  Args:
    about: content of the export's config.json.
    preprocess: content of its preprocess.json.
    records: what evaluate wrote of each set, see `report.pairs.Record`.
    style: the layout that transformers reads the towers in; '' for none.
  """
  sets = []
  for record in records:
    name, values = record['set'], record['values']
    there = {x.partition('@')[0].rpartition('/')[2] for x in values}
    metrics = [x for x in _METRICS if x in there]
    sets.append(
      {
        'name': name,
        'count': record['count'],
        'names': [_METRICS[x] for x in metrics],
        'rows': [
          (m, *(values.get(f'{name}/{x}@{m}') for x in metrics))
          for m in record['widths']
        ],
      }
    )
  return _render(
    'towers_card.md.jinja',
    about=about,
    preprocess=preprocess,
    sets=sets,
    searches=next(filter(None, map(_searches, records)), []),
    style=style,
  )


def _searches(record: Mapping[str, Any]) -> list[dict[str, Any]]:
  """The captions of what words find at the last width."""
  by_width = list(record['searches'].values())
  return [
    {
      'words': search['words'],
      'found': [record['pictures'][str(x)]['caption'] for x in search['found']],
    }
    for search in (by_width[-1] if by_width else ())
  ]


def _render(template: str, **values: Any) -> str:
  import jinja2

  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER),
    trim_blocks=True,
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
  )
  environment.globals['show'] = tables.show
  environment.filters['paragraph'] = _paragraph
  return environment.get_template(template).render(**values)


def _paragraph(text: str) -> str:
  return textwrap.fill(text.strip(), 80) + '\n'

"""Writes the model card of an export."""

from collections.abc import Mapping
import pathlib
import textwrap
from typing import Any

from mrl_jax.terminal import tables

_FOLDER = pathlib.Path(__file__).parent


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
  import jinja2

  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER),
    trim_blocks=True,
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
  )
  environment.globals['show'] = tables.show
  environment.filters['paragraph'] = _paragraph
  template = environment.get_template('model_card.md.jinja')
  return template.render(about=about, preprocess=preprocess, has_rule=has_rule)


def _paragraph(text: str) -> str:
  return textwrap.fill(text.strip(), 80) + '\n'

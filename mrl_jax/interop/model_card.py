"""Writes the model card of an export."""

from collections.abc import Mapping
import textwrap
from typing import Any

from mrl_jax.terminal import tables

_HEADS = {
  'mrl': 'a classifier for each width (MRL)',
  'mrl_e': 'one classifier, shared by all widths (MRL-E)',
  'fixed': 'one classifier of one width (FF)',
}
_MEASURES = {'top1': 'top-1', 'top5': 'top-5', 'knn1': '1-NN'}


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
  dims = about['nesting_dims']
  dim = dims[len(dims) // 2]
  top = min(5, about['num_classes'])
  what = textwrap.fill(
    f'An encoder, {about["encoder"]}, with nested embeddings (Matryoshka '
    'Representation Learning, arXiv 2205.13147): every prefix of its '
    f'{about["num_features"]:,} numbers is an embedding by itself. Trained on '
    f'{about["dataset"]}, {about["num_classes"]:,} classes, for '
    f'{about["step"]:,} steps, with {_HEADS[about["head"]]}, at the widths '
    f'{", ".join(map(str, dims))}.',
    80,
  )
  measured = textwrap.fill(
    f'In percent, on {about["eval_split"]}: top-1 and top-5 of the linear '
    f'classifiers, and 1-NN by cosine in {about["train_split"]}.',
    80,
  )
  return f"""---
tags: [matryoshka, embeddings, jax]
---

# {about['name']}

{what}

## Accuracy

{measured}

{_table(about)}

## Use

With mrl_jax:

    import mrl_jax

    encoder = mrl_jax.load('.')
    embeddings = encoder.encode({preprocess['input']}, dim={dim})
    found = encoder.classify({preprocess['input']}, dim={dim}, top={top})
    found.names, found.probabilities_NK
{_rule(preprocess) if has_rule else ''}
Without it, on any platform that JAX has been installed for:

    from jax import export
    import numpy as np

    with open('encoder.stablehlo', 'rb') as file:
      encoder = export.deserialize(bytearray(file.read()))
    embeddings = np.asarray(encoder.call(batch))[:, :{dim}]
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)

Slice first, then normalise. Widths between those above may be taken as well.
{_heads(about, dim)}
## What it takes

{_takes(preprocess)}

`preprocess.json` has the numbers, `config.json` those further up.
{_tensors(about, preprocess)}"""


def _rule(preprocess: Mapping[str, Any]) -> str:
  return f"""
or, where the first width decides that is sure enough of its answer:

    found = encoder.classify({preprocess['input']}, cascade=True)
    found.dims_N  # The widths that decided.
"""


def _heads(about: Mapping[str, Any], dim: int) -> str:
  name, rows = about['nesting_dims'][-1], f'[:{dim}]'
  if name == dim or about['head'] == 'mrl':
    name, rows = dim, ''
  return f"""
The classifiers are in `heads.npz`. They take embeddings that are not
normalised:

    heads = np.load('heads.npz')
    embeddings = np.asarray(encoder.call(batch))[:, :{dim}]
    logits = embeddings @ heads['kernel_{name}']{rows} + heads['bias_{name}']
"""


def _tensors(about: Mapping[str, Any], preprocess: Mapping[str, Any]) -> str:
  if preprocess['input'] == 'vectors':
    return ''
  text = (
    '`model.safetensors` has the parameters by the names of timm, and of '
    f'torchvision where it has {about["encoder"]}; the heads are '
    '`nesting_classifier_0` and so on, in the order of the widths'
  )
  if about['head'] == 'fixed':
    text = text[: text.index('; the heads')]
  return f'\n## In PyTorch\n\n{textwrap.fill(text + ".", 80)}\n'


def _table(about: Mapping[str, Any]) -> str:
  lines = [
    f'| width | {" | ".join(_MEASURES.values())} |',
    '|---:|---:|---:|---:|',
  ]
  for width, values in about['accuracy'].items():
    cells = (tables.show(values.get(name)) for name in _MEASURES)
    lines.append(f'| {width} | {" | ".join(cells)} |')
  return '\n'.join(lines)


def _takes(preprocess: Mapping[str, Any]) -> str:
  shape = ', '.join(map(str, preprocess['shape']))
  what = f'`{preprocess["dtype"]} [{shape}]`, for any n: '
  if preprocess['input'] == 'vectors':
    steps = 'the vectors as they are, which are centred and scaled inside.'
  else:
    size, resize = preprocess['size'], preprocess['resize']
    steps = 'RGB images, '
    steps += (
      'turned as their EXIF orientation says, transparent pixels over white, '
      if preprocess['as_seen']
      else 'as they are stored, whatever their EXIF orientation says, '
    )
    steps += (
      f'the shorter side resized to {resize} pixels (bilinear, '
      f'antialiased), then the central square of {size}'
      if resize
      else f'which must be squares of {size} pixels already'
    )
    steps += (
      '. Give the pixels as they are, 0 to 255: mean and deviation are dealt '
      'with inside.'
    )
  return textwrap.fill(what + steps, 80)

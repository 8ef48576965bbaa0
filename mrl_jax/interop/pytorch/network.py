"""Finds the network among the keys of a checkpoint, below any prefix."""

from collections.abc import Iterable, Mapping
import re
from typing import NamedTuple

from mrl_jax.interop.pytorch import names
from mrl_jax.interop.pytorch import other_architectures
from mrl_jax.interop.pytorch.names import Style

Shapes = Mapping[str, tuple[int, ...]]

# Names of a transformers ViT in memory, and the names that its files have.
_IN_MEMORY = (
  (r'layers\.(\d+)\.attention\.q_proj', r'attention.attention.query'),
  (r'layers\.(\d+)\.attention\.k_proj', r'attention.attention.key'),
  (r'layers\.(\d+)\.attention\.v_proj', r'attention.attention.value'),
  (r'layers\.(\d+)\.attention\.o_proj', r'attention.output.dense'),
  (r'layers\.(\d+)\.layernorm_(before|after)', r'layernorm_\2'),
  (r'layers\.(\d+)\.mlp\.fc1', r'intermediate.dense'),
  (r'layers\.(\d+)\.mlp\.fc2', r'output.dense'),
)
# Names of torchvision's released ViTs, which are older than its own code.
_RELEASED = (
  (r'\.mlp\.linear_1\.', '.mlp.0.'),
  (r'\.mlp\.linear_2\.', '.mlp.3.'),
)
# The first module of an encoder, and the start of its first block.
_STEM = ('conv1.', 'stem.conv', 'patch_embed')
_FIRST_BLOCK = ('layer1.0.', 'stage1.0.', 'blocks.0.')


class Network(NamedTuple):
  """The keys of one network in a file.

  Attributes:
    prefix: what precedes its keys; empty, or with a dot at the end.
    family: key of `names.FAMILIES`.
    style: the library whose names the keys are.
    raw: every key of the file that has the prefix, by the rest of the key.
    known: shapes of the keys that the table of names has, see `names.read`.
  """

  prefix: str
  family: str
  style: Style
  raw: dict[str, str]
  known: dict[str, Shapes]

  def keys(self) -> set[str]:
    """The file's keys that the table of names has."""
    return {self.raw[key] for part in self.known.values() for key in part}

  @property
  def outer_prefix(self) -> str:
    """The prefix without the name that transformers gives its base model."""
    base = names.FAMILIES[self.family].base
    is_theirs = self.style == 'huggingface'
    return self.prefix.removesuffix(base) if is_theirs else self.prefix

  def head_keys(self, shapes: Shapes) -> dict[str, str]:
    """The classifier's keys in the file, by the library's own names.

    transformers has its classifier beside the base model, all others inside.
    """
    start = self.outer_prefix
    head = names.FAMILIES[self.family].heads[self.style]
    encoder = self.keys()
    return {
      key.removeprefix(start): key
      for key in shapes
      if key.startswith(f'{start}{head}.') and key not in encoder
    }


def find(shapes: Shapes, prefix: str = '') -> Network:
  """Finds the one network whose keys begin with the prefix.

  Its keys may have a longer prefix. Raises ValueError if there are several
  networks, or none of a known family; the message says what it looks like.
  """
  start = prefix and prefix.rstrip('.') + '.'
  if not any(key.startswith(start) for key in shapes):
    raise ValueError(
      f'prefix {prefix!r}: must begin a key of the file, which has the '
      f'prefixes {listed(sorted({key.partition(".")[0] for key in shapes}))}'
    )
  candidates = [
    candidate
    for below, raw in _below(shapes, start).items()
    for candidate in _candidates(below, raw, shapes)
  ]
  # The longest list of keys first; of equals the shortest prefix.
  candidates.sort(key=lambda x: (-len(x.keys()), len(x.prefix)))
  whole = [candidate for candidate in candidates if _is_whole(candidate)]
  if not whole or not _is_most(whole[0]):
    raise ValueError(_unknown(shapes, candidates[:1]))
  _refuse_several(whole, shapes)
  return whole[0]


def _below(shapes: Shapes, start: str) -> dict[str, dict[str, str]]:
  """The keys by every prefix that begins with `start`, without that prefix."""
  found = {}
  for key in shapes:
    if key.startswith(start):
      parts = key.removeprefix(start).split('.')
      for i in range(len(parts)):
        prefix = ''.join([start, *(f'{part}.' for part in parts[:i])])
        found.setdefault(prefix, {})[_as_in_files(key[len(prefix) :])] = key
  return found


def _candidates(
  prefix: str, raw: Mapping[str, str], shapes: Shapes
) -> Iterable[Network]:
  plain = {key: shapes[name] for key, name in raw.items()}
  for name, family in names.FAMILIES.items():
    for style in family.heads:
      if known := names.read(plain, family, style):
        yield Network(prefix, name, style, dict(raw), known)


def _is_whole(network: Network) -> bool:
  """Whether the keys have a stem and a first block."""
  return all(
    any(name.startswith(starts) for name in network.known)
    for starts in (_STEM, _FIRST_BLOCK)
  )


def _is_most(network: Network) -> bool:
  """Whether the table has at least half of the keys below the prefix."""
  counted = [key for key in network.raw if not key.endswith('_tracked')]
  return len(network.keys()) >= len(counted) / 2


def _refuse_several(whole: list[Network], shapes: Shapes) -> None:
  separate = [whole[0]]
  least = len(whole[0].keys()) / 2
  for other in whole[1:]:
    if len(other.keys()) >= least and all(
      other.keys().isdisjoint(one.keys()) for one in separate
    ):
      separate.append(other)
  if len(separate) > 1:
    prefixes = [one.prefix.removesuffix('.') for one in separate]
    named = ', '.join(map(repr, prefixes))
    example = next(prefix for prefix in prefixes if prefix)
    raise ValueError(
      f'holds {len(separate)} networks, with the prefixes {named}: name one '
      f'with --prefix, as in --prefix={example} (init_prefix in a config)'
    )


def _as_in_files(key: str) -> str:
  for pattern, name in _IN_MEMORY:
    key = re.sub(f'^{pattern}', rf'encoder.layer.\1.{name}', key)
  for pattern, name in _RELEASED:
    key = re.sub(pattern, name, key)
  return key


def _unknown(shapes: Shapes, nearest: list[Network]) -> str:
  architecture = other_architectures.architecture(shapes)
  if architecture:
    looks = f'it looks like {architecture}'
  elif any(len(shape) == 5 for shape in shapes.values()):
    looks = 'it looks like a network for videos or volumes'
  elif nearest:
    style, family = nearest[0].style, nearest[0].family
    looks = (
      f"nearest is {style}'s {family}, of which it has "
      f'{len(nearest[0].keys())} of {len(shapes)} keys'
    )
  else:
    looks = f'its keys are {listed(shapes)}'
  return (
    f'no encoder known here ({looks}); known are ResNets of torchvision, timm, '
    'transformers and RAIVNLab, ConvNeXt and ViT of torchvision, timm and '
    'transformers'
  )


def listed(words: Iterable[str], most: int = 6) -> str:
  """Text: the first names with commas, and how many more there are."""
  words = [*words]
  more = f' and {len(words) - most} more' if len(words) > most else ''
  return ', '.join(words[:most]) + more

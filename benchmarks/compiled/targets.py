"""Accelerators to compile for: their names, devices and published peaks."""

from collections.abc import Collection
import dataclasses
import importlib.util
import math
import os
import pathlib
import re
import sys
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
# A folder of their own: JAX would try to start a TPU in every process that can
# import libtpu.
FOLDER = ROOT / '.compilers'
INSTALL = {
  'tpu': (
    'pip install --no-deps --target=.compilers -r requirements-compiled.txt'
  ),
  'cuda': (
    'pip install "jax[cuda13]", in an environment of its own: it is 4 GB'
  ),
}


class Chip(NamedTuple):
  """Published peaks of one chip.

  Attributes:
    teraflops: bfloat16 products, dense.
    gigabytes_s: main memory's bandwidth.
    gigabytes: main memory's size.
    source: where these are published.
  """

  teraflops: float
  gigabytes_s: float
  gigabytes: float
  source: str


_DOCS = 'docs.cloud.google.com/tpu/docs/'
CHIPS = {
  'v4': Chip(275, 1200, 32, _DOCS + 'v4'),
  'v5e': Chip(197, 819, 16, _DOCS + 'v5e'),
  'v5p': Chip(459, 2765, 95, _DOCS + 'v5p'),
  'v6e': Chip(918, 1638, 32, _DOCS + 'v6e'),
  'h100': Chip(989.4, 3350, 80, 'nvidia.com, H100 SXM data sheet, no sparsity'),
}
# The topology of each number of chips.
_FLAT = {8: '2x4', 64: '8x8', 256: '16x16'}
_CUBES = {4: '2x2x1', 8: '2x2x2', 64: '4x4x4', 256: '4x8x8'}
_TOPOLOGIES = {'v4': _CUBES, 'v5e': _FLAT, 'v5p': _CUBES, 'v6e': _FLAT}
_NODE = 8  # GPUs in one machine.


@dataclasses.dataclass(frozen=True)
class Target:
  """Chips of one kind: `v5e:2x4` is eight of a kind of TPU, `h100x8` GPUs."""

  kind: str
  topology: str

  @property
  def name(self) -> str:
    return (
      f'{self.kind}{"x" if self.platform == "cuda" else ":"}{self.topology}'
    )

  @property
  def platform(self) -> str:
    return 'tpu' if self.kind in _TOPOLOGIES else 'cuda'

  @property
  def chips(self) -> int:
    return math.prod(map(int, self.topology.split('x')))

  @property
  def chip(self) -> Chip:
    return CHIPS[self.kind]

  def holding(self, chips: int) -> 'Target':
    """This target, or the next larger one that has so many chips."""
    if chips <= self.chips:
      return self
    if self.platform == 'cuda':
      return Target(self.kind, str(-(-chips // _NODE) * _NODE))
    sizes = _TOPOLOGIES[self.kind]
    enough = min((n for n in sizes if n >= chips), default=None)
    if enough is None:
      raise ValueError(f'chips {chips}: must be at most {max(sizes)}')
    return Target(self.kind, sizes[enough])

  def devices(self) -> list[Any]:
    """The devices, which programs are compiled for and none can run on."""
    from jax.experimental import topologies

    if self.platform == 'tpu':
      found = topologies.get_topology_desc(self.topology_name, 'tpu')
    else:
      text = pathlib.Path(__file__).with_name('h100_sxm.txtpb').read_text()
      nodes = -(-self.chips // _NODE)
      found = topologies.get_topology_desc(
        platform='cuda',
        target_config=text,
        topology=f'1x{nodes}x{min(self.chips, _NODE)}',
      )
    return list(found.devices)

  @property
  def topology_name(self) -> str:
    return f'{self.kind}:{self.topology}'


def set_environment() -> None:
  """Lets JAX load the compilers without their devices; call before JAX loads.

  The TPU's runtime asks its surroundings which machine it is on: it is told.
  """
  os.environ.update(
    JAX_PLATFORMS='cpu',
    TPU_SKIP_MDS_QUERY='1',
    TPU_ACCELERATOR_TYPE='v5litepod-8',
    TPU_WORKER_HOSTNAMES='localhost',
    CUDA_VISIBLE_DEVICES='-1',
    JAX_SKIP_CUDA_CONSTRAINTS_CHECK='1',
  )
  if FOLDER.is_dir() and str(FOLDER) not in sys.path:
    sys.path.append(str(FOLDER))


def has_compiler(platform: str) -> bool:
  """Whether the compiler for `tpu` or `cuda` is installed."""
  if platform == 'cuda':
    plugins = importlib.util.find_spec('jax_plugins')
    folders = plugins.submodule_search_locations if plugins else ()
    return any(
      path.name.startswith('xla_cuda')
      for folder in folders
      for path in pathlib.Path(folder).iterdir()
    )
  return (FOLDER / 'libtpu').is_dir() or importlib.util.find_spec(
    'libtpu'
  ) is not None


def parse(name: str) -> Target:
  """The target of that name, whose compiler is installed and takes it.

  Raises ValueError, with the line that installs it, if there is no compiler;
  and for an unknown target, with those that the installed compilers take, or
  without one with all that are known.
  """
  match = re.fullmatch(r'(h100)x([1-9]\d*)|(v\w+):(\d+(?:x\d+)+)', name)
  platform = 'cuda' if name.startswith('h100') else 'tpu'
  target = Target(*filter(None, match.groups())) if match else None
  is_known = target is not None and target.kind in CHIPS
  if not has_compiler(platform):
    why = 'there is no compiler for it'
    if not is_known:
      names = ', '.join(x.name for x in _examples(INSTALL))
      why = f'known are {names}; there is no compiler for such'
    line = INSTALL[platform]
    raise ValueError(f'target {name}: {why}; install it by: {line}')
  if not is_known or not _compiles(target):
    there = [x for x in INSTALL if has_compiler(x)]
    taken = ', '.join(x.name for x in _examples(there) if _compiles(x))
    raise ValueError(f'target {name}: the installed compilers take {taken}')
  return target


def _examples(platforms: Collection[str]) -> list[Target]:
  """Each kind of target of these platforms, in each known size."""
  found = [Target('h100', str(_NODE))] if 'cuda' in platforms else []
  if 'tpu' in platforms:
    found += [
      Target(kind, topology)
      for kind, sizes in _TOPOLOGIES.items()
      for topology in sizes.values()
    ]
  return found


def _compiles(target: Target) -> bool:
  from jax.errors import JaxRuntimeError

  try:
    return bool(target.devices())
  except (JaxRuntimeError, NotImplementedError):
    return False

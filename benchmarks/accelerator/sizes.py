"""The sizes that are measured, in full and in small."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The sizes that are measured.

  Attributes:
    tiny: whether encoders are replaced by small ones of their kind, and
      Pallas's kernels run in its interpreter where they cannot be compiled.
    seconds: time for the rounds of one comparison.
    least_rounds: rounds of a comparison that takes longer.
    window: seconds between two looks at the clock.
    dtype: of the computation.
    product: side of the matrices whose product gives the card's rate.
    copy_mb: size of the array whose copy gives the memory's rate.
    digits_steps: steps of the training on digits; 0: the recipe's.
    heads: examples, width and classes of the heads.
    pixels: sides of the images of the ResNet step.
    batch: images of a step.
    sweep: other batches, tried at the first of the sizes.
    late_peers: heads whose step PyTorch does, too, once all sizes are done.
    classes: classes of the steps.
    encoders: other encoders: name, pixels and batch.
    resident: images that lie on the devices, and their side; crops have the
      first of `pixels`.
    queries: queries of the search.
    rows: rows of the search.
    width: their width.
    search_dims: widths that are searched.
    shortlist: rows that the adaptive search ranks again.
    search_dtypes: dtypes of the rows.
  """

  tiny: bool = False
  seconds: float = 2.0
  least_rounds: int = 5
  window: float = 0.1
  dtype: str = 'bfloat16'
  product: int = 8192
  copy_mb: int = 4096
  digits_steps: int = 0
  heads: tuple[tuple[int, int, int], ...] = (
    (256, 2048, 1000),
    (8192, 2048, 21841),
  )
  pixels: tuple[int, ...] = (160, 224, 192, 176)
  batch: int = 256
  sweep: tuple[int, ...] = (512, 1024, 128)
  late_peers: tuple[str, ...] = ('FF', 'MRL-E')
  classes: int = 1000
  encoders: tuple[tuple[str, int, int], ...] = (
    ('convnext_tiny', 224, 256),
    ('vit_b16', 224, 256),
  )
  resident: tuple[int, int] = (32768, 192)
  queries: int = 50_000
  rows: int = 1_281_167
  width: int = 2048
  search_dims: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
  shortlist: int = 200
  search_dtypes: tuple[str, ...] = ('bfloat16', 'float32')


FULL = Sizes()
TINY = Sizes(
  tiny=True,
  seconds=0.0,
  least_rounds=2,
  window=0.0,
  product=64,
  copy_mb=1,
  digits_steps=3,
  heads=((16, 16, 24),),
  pixels=(16,),
  batch=8,
  sweep=(),
  late_peers=(),
  classes=10,
  encoders=(('convnext_tiny', 16, 4), ('vit_b16', 16, 4)),
  resident=(32, 24),
  queries=20,
  rows=300,
  width=32,
  search_dims=(8, 32),
  shortlist=40,
  search_dtypes=('bfloat16',),
)


def chosen(*, tiny: bool, pixels: str = '') -> Sizes:
  """The sizes, with `pixels` of the ResNet step from a list with commas.

  Raises ValueError for pixels that are not among those measured.
  """
  sizes = TINY if tiny else FULL
  if not pixels:
    return sizes
  known = {str(size): size for size in sizes.pixels}
  for text in pixels.split(','):
    if text not in known:
      raise ValueError(f'--pixels={text}: must be among {", ".join(known)}')
  wanted = tuple(known[text] for text in pixels.split(','))
  return dataclasses.replace(sizes, pixels=wanted)

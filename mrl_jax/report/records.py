"""Schemas of the records that the page reads, checked by `files.checked`.

`stages.retrieve` writes a Retrieval, `stages.analyze` all others. A record may
have more fields than its schema. Accuracies are in percent; null stands for
what was not measured.
"""

from typing import NotRequired, TypedDict

Numbers = list[float | None]
Ints = list[int]


class Spread(TypedDict):
  """A mean and a standard deviation for each width."""

  mean: Numbers
  std: Numbers


class ByWidth(TypedDict):
  """The fields of every record of an analysis."""

  step: NotRequired[int]
  dims: Ints


class Baselines(ByWidth):
  sampled: bool
  queries: int
  database: int
  knn1: dict[str, Numbers]


class Thumbnail(TypedDict):
  """Layout of the thumbnails in their sheet; `side` is in pixels."""

  file: str
  side: int
  columns: int
  rows: int


class Predictions(ByWidth):
  """Classes of the examples shown, with each width's prediction of them."""

  names: dict[str, str]
  prediction: list[Ints]
  probability: list[Numbers]


class Projection(Predictions):
  num_classes: int
  labels: Ints
  thumbnail: Thumbnail
  tsne: list[list[Numbers]]
  pca2: list[list[Numbers]]
  pca3: list[list[Numbers]]


class Saliency(Predictions):
  method: NotRequired[str]
  arrays: str
  labels: list[int | None]
  titles: list[str]


class CascadeCurve(ByWidth):
  single: Numbers
  accuracy: Spread
  expected_dim: Spread
  cumulated_dim: Spread
  repeats: int
  fit_share: float


class Oracle(ByWidth):
  count: Ints
  never: int
  examples: int
  accuracy: float
  expected_dim: float | None
  majority: float
  agreement: list[Numbers]
  trends: dict[str, int]


class PerClass(ByWidth):
  classes: list[str]
  accuracy: list[Numbers]


class Structure(ByWidth):
  explained_variance: Numbers
  overlap: list[Numbers]
  k: int


class Bins(TypedDict):
  """Confidence bins, [G, B]."""

  confidence: list[Numbers]
  accuracy: list[Numbers]
  count: list[Ints]


class Calibration(ByWidth):
  ece: Numbers
  bins: Bins


class Setting(TypedDict):
  """Few-shot accuracy with one number of shots and ways."""

  shots: int
  ways: int
  accuracy: Numbers
  std: Numbers


class FewShot(ByWidth):
  settings: list[Setting]


class Superclass(ByWidth):
  groups: list[str]
  accuracy: Numbers
  by_group: list[Numbers]
  inside: list[Numbers]
  across: list[Numbers]
  within: list[Numbers]


class Method(TypedDict):
  """One way to search; `seconds` are of all queries together."""

  dims: Ints
  shortlists: NotRequired[Ints]
  metrics: dict[str, float | None]
  mflops_per_query: float
  seconds: float


class Retrieval(TypedDict):
  step: NotRequired[int]
  queries: int
  database: int
  methods: dict[str, Method]


# By the name of the file, without its ending.
SCHEMAS = {
  'baselines': Baselines,
  'projection': Projection,
  'cascade_curve': CascadeCurve,
  'oracle': Oracle,
  'per_class': PerClass,
  'structure': Structure,
  'saliency': Saliency,
  'calibration': Calibration,
  'few_shot': FewShot,
  'superclass': Superclass,
  'retrieval': Retrieval,
}

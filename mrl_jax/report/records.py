"""What the page reads of each record: schemas that `files.checked` checks.

Accuracies are in percent; null stands for what was not measured.
"""

from typing import NotRequired, TypedDict

Numbers = list[float | None]
Ints = list[int]


class Spread(TypedDict):
  mean: Numbers
  std: Numbers


class Baselines(TypedDict):
  step: NotRequired[int]
  dims: Ints
  sampled: bool
  knn1: dict[str, Numbers]


class Thumbnail(TypedDict):
  file: str
  side: int
  columns: int
  rows: int


class Projection(TypedDict):
  step: NotRequired[int]
  dims: Ints
  num_classes: int
  labels: Ints
  names: dict[str, str]
  prediction: list[Ints]
  probability: list[Numbers]
  thumbnail: Thumbnail
  tsne: list[list[Numbers]]
  pca2: list[list[Numbers]]
  pca3: list[list[Numbers]]


class CascadeCurve(TypedDict):
  step: NotRequired[int]
  dims: Ints
  single: Numbers
  accuracy: Spread
  expected_dim: Spread
  cumulated_dim: Spread
  repeats: int
  fit_share: float


class Oracle(TypedDict):
  step: NotRequired[int]
  dims: Ints
  count: Ints
  never: int
  examples: int
  accuracy: float
  expected_dim: float | None
  majority: float
  agreement: list[Numbers]
  trends: dict[str, int]


class PerClass(TypedDict):
  step: NotRequired[int]
  dims: Ints
  classes: list[str]
  accuracy: list[Numbers]


class Structure(TypedDict):
  step: NotRequired[int]
  dims: Ints
  explained_variance: Numbers
  overlap: list[Numbers]
  k: int


class Saliency(TypedDict):
  step: NotRequired[int]
  dims: Ints
  method: NotRequired[str]
  arrays: str
  labels: list[int | None]
  titles: list[str]
  names: dict[str, str]
  prediction: list[Ints]
  probability: list[Numbers]


class Bins(TypedDict):
  confidence: list[Numbers]
  accuracy: list[Numbers]
  count: list[Ints]


class Calibration(TypedDict):
  step: NotRequired[int]
  dims: Ints
  ece: Numbers
  bins: Bins


class Setting(TypedDict):
  shots: int
  ways: int
  accuracy: Numbers
  std: Numbers


class FewShot(TypedDict):
  step: NotRequired[int]
  dims: Ints
  settings: list[Setting]


class Superclass(TypedDict):
  step: NotRequired[int]
  dims: Ints
  groups: list[str]
  accuracy: Numbers
  by_group: list[Numbers]
  inside: list[Numbers]
  across: list[Numbers]
  within: list[Numbers]


class Method(TypedDict):
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


# By the file's name, without its ending.
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

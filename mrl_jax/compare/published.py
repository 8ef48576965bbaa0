"""The paper's Tables 1 and 2: ResNet-50 on ImageNet-1K, top-1 in percent.

Marks say where a figure comes from: no mark means that arXiv 2503.01776
reprints it (Tables 5 and 4), `N` that a third party quotes it, and `M` that it
was recalled and is not confirmed: nothing may rest on it.
"""

import re

DATASET = 'imagenet2012'
MARKS = {
  '': 'reprinted in arXiv 2503.01776, Tables 4 and 5',
  'N': 'quoted by a third party',
  'M': 'recalled, not confirmed',
}
DIMS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_LINEAR = {
  'Rand. LP': '4.56 11.29 27.21 49.47 65.70 72.43 74.94 76.10 76.87',
  'SVD': '2.34 7.17 20.46 48.10 67.24 74.59 76.78 76.87 –',
  'FF': '65.29N 72.85N 74.60M 75.27M 75.29N 75.71M 76.18M 76.63M 76.87N',
  'Slim': '0.42N 0.96N 2.27M 5.59M 14.15N 38.42M 69.80M 74.61M 76.26N',
  'MRL': '66.63 73.53 75.03 75.82 76.30 76.47 76.65 76.76 76.80',
  'MRL-E': '56.66 71.94 74.48 75.35 75.80 76.22 76.36 76.48 76.51',
}
_NEIGHBOR = {
  'Rand. FS': '2.36 12.06 32.91 49.91 60.91 65.75 68.77 70.41 71.19',
  'SVD': '19.14 46.02 60.78 67.04 69.63 70.67 71.06 71.22 71.21',
  'JL': '0.11M 0.09M 0.06M 0.05M 0.06M 0.04M 0.03M – –',
  'FF': '58.93N 66.77M 68.84M 69.41M 69.35M 69.72M 70.18M 70.34M 71.19',
  'Slim': '1.00M 5.12M 16.95M 35.60M 51.16M 60.61M 65.82M 67.19M 66.10M',
  'MRL': '62.19 67.91 69.46 70.17 70.52 70.62 70.82 70.89 70.97',
  'MRL-E': '57.45 67.05 68.60 69.61 70.12 70.36 70.74 71.07 71.21',
}


def table(name: str) -> dict[str, dict[int, str]]:
  """Figures with their marks by method and width; `name` is linear or 1-NN."""
  rows = {'linear': _LINEAR, '1-NN': _NEIGHBOR}[name]
  return {
    method: {
      dim: ' '.join(re.fullmatch(r'([\d.]+)(.*)', cell).groups()).rstrip()
      for dim, cell in zip(DIMS, text.split(), strict=True)
      if cell != '–'
    }
    for method, text in rows.items()
  }

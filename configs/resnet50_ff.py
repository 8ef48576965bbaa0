"""`resnet50_mrl`'s fixed-feature baseline: one width, given after a colon.

The paper's linear top-1 (table 1) is 76.87 at 2048. Not yet run here to the
end.

    python launch.py --config=configs/resnet50_ff.py:512
"""

from configs import fixed_feature
from configs import resnet50_mrl


def get_config(width: str = ''):
  return fixed_feature.of_width(resnet50_mrl.get_config(), width)

"""Runs the stages of an experiment: train, evaluate, embed, …

    python launch.py --config=configs/digits_mrl.py [--workdir=DIR]
                     [--mode=train,evaluate] [--config.batch_size=128 …]

The command of a clone; the same as `python -m mrl_jax.launch`, which says more.
"""

from absl import app
from absl import flags

from mrl_jax import launch
from mrl_jax.launch import main
from mrl_jax.launch import parse_flags

# Has `--help` list the flags of the command.
flags.adopt_module_key_flags(launch)

if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)

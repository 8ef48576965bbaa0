#!/bin/sh
# ResNet-50 with MRL on ImageNet, one machine of eight GPUs: a batch of 4096, 512
# to a GPU, and four times the learning rate.
#
#     pip install "jax[cuda12]"; sh runs/resnet50_8gpu.sh
#
# Started again, it goes on. Not yet run.
set -eu
python launch.py --config=configs/resnet50_mrl_large_batch.py "$@"

#!/bin/sh
# ResNet-50 with MRL on ImageNet, one GPU of 80 GB: the paper's batch of 1024.
# A smaller one takes the same batch in parts: --config.micro_batches=4.
#
#     pip install "jax[cuda12]"; sh runs/resnet50_1gpu.sh
#
# Reads ~/tensorflow_datasets/imagenet2012 (README.md says how to prepare it).
# Started again, it goes on. Not yet run.
set -eu
python launch.py --config=configs/resnet50_mrl.py "$@"

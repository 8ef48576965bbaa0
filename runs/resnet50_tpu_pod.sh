#!/bin/sh
# ResNet-50 with MRL on ImageNet, a TPU slice of one or several hosts (v4-8, v5e-16
# and larger): to be started on every host alike. The hosts find each other.
#
#     gcloud compute tpus tpu-vm ssh NAME --worker=all --command='
#       cd mrl_jax && pip install "jax[tpu]" -r requirements.txt &&
#       sh runs/resnet50_tpu_pod.sh /shared/tensorflow_datasets /shared/run'
#
# The dataset and the workdir, on storage that all hosts share. A preempted slice
# goes on when it is started again. Not yet run.
set -eu
data_dir=$1
workdir=$2
shift 2
python launch.py --config=configs/resnet50_mrl_large_batch.py \
  --config.data_dir="$data_dir" --workdir="$workdir" "$@"

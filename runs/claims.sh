#!/usr/bin/env bash
# Trains what the paper's claims need, and judges them:
#
#     bash runs/claims.sh [cpu|gpu] [--out=DIR] [--images=DATASET] \
#       [--texts=FOLDER] [--emoji=FOLDER]
#
# DATASET is a TFDS name or folder:/path with train/<class>/ and test/<class>/.
# --texts, a folder with encoder/ (of sentence-transformers), pairs.jsonl (first,
# second), sts_train.csv and sts_test.csv (first, second, score), adds the text
# encoder that is fine-tuned; --emoji, made by mrl_jax.data.prepare.emoji, images
# with texts. Started again, it goes on. cpu is meant for 90 minutes on two cores,
# which is not measured: so far it was run for one seed of 2,000 images.
set -euo pipefail
cd "$(dirname "$0")/.."
size=cpu out=runs/claims images=cifar10 texts= emoji= seeds='0 1 2'
for argument; do
  case $argument in
    cpu | gpu) size=$argument ;;
    --out=*) out=${argument#*=} ;;
    --images=*) images=${argument#*=} ;;
    --texts=*) texts=${argument#*=} ;;
    --emoji=*) emoji=${argument#*=} ;;
    --seeds=*) seeds=${argument#*=} ;;
    *) echo "claims.sh: $argument: must be cpu, gpu, --out=DIR, --images=DATASET," \
      '--texts=FOLDER, --emoji=FOLDER or --seeds=LIST' >&2; exit 2 ;;
  esac
done
mkdir -p "$out"

# Runs the stages of one config, in a workdir of its own.
train() {
  local name=$1 config=$2 modes=$3
  shift 3
  echo "== $name"
  python launch.py --config="configs/$config" --workdir="$out/$name" \
    --mode="$modes" "$@"
}

if [ "$size" = cpu ]; then
  shape=(--config.encoder=resnet8 --config.image_size=16 --config.eval_resize=16
    --config.eval_image_size=16 --config.shift=2 --config.num_epochs=3)
  widths='4 8 16 64' between=6,12,32 last=64 slim=16,32,48,64
  block=layer3.0
else
  shape=(--config.num_epochs=60)
  widths='2 4 8 16 32 64' between=3,6,12,24,48 last=64 slim=16,32,48,64
  block=layer3.2
fi
dims=${widths// /,}
shape+=(--config.dataset="$images" --config.eval_every_epochs=100
  --config.checkpoint_every_epochs=1)
all=train,embed,evaluate,retrieve,analyze

for seed in $seeds; do
  common=("${shape[@]}" --config.seed="$seed")
  train "images/mrl-$seed" cifar10_mrl.py $all "${common[@]}" \
    --config.nesting_dims="$dims" --config.eval_dims=$between
  train "images/mrl_e-$seed" cifar10_mrl.py train,evaluate "${common[@]}" \
    --config.head=mrl_e --config.nesting_dims="$dims" --config.eval_dims='()'
  for width in $widths; do
    modes=train,embed,evaluate
    [ "$width" = $last ] && modes=$all
    train "images/ff$width-$seed" cifar10_mrl.py "$modes" "${common[@]}" \
      --config.head=fixed --config.nesting_dims="$width" \
      --config.eval_dims="$([ "$width" = $last ] && echo "${dims%,*}" || echo '()')"
  done
  train "images/slim-$seed" cifar10_mrl.py train,evaluate "${common[@]}" \
    --config.head=mrl_e --config.slimmable --config.nesting_dims=$slim \
    --config.eval_dims="${dims%%,16*}"
  train "images/boost-$seed" cifar10_mrl.py train,evaluate "${common[@]}" \
    --config.nesting_dims="$dims" --config.nesting_weights=8boost
  for parts in head "$block.conv2,head" "$block,head"; do
    train "images/tuned-${parts//[,.]/_}-$seed" cifar10_mrl.py train,evaluate \
      "${common[@]}" --config.nesting_dims="$dims" --config.num_epochs=2 \
      --config.init_from="$out/images/ff$last-$seed" --config.trainable="$parts"
  done
  train "texts/nested-$seed" text_mrl.py train,evaluate,export \
    --config.seed="$seed"
  # Nine heads and one, in turns.
  for head in mrl fixed; do
    train "speed/$head-$seed" digits_mrl.py train --config.seed="$seed" \
      --config.encoder=resnet18 --config.num_epochs=3 --config.log_every_steps=5 \
      --config.eval_every_epochs=100 --config.eval_dims='()' --config.head=$head \
      --config.nesting_dims="$([ $head = mrl ] && echo 2,4,8,16,32,64,128,256,)512"
  done
done

if [ -n "$emoji" ]; then
  sets="'names=retrieval:$emoji/val?shortlist=20'"
  for seed in $seeds; do
    flags=(--config.dataset="$emoji/train" --config.eval_sets="$sets"
      --config.seed="$seed" --config.image_size=16 --config.eval_resize=16
      --config.eval_image_size=16)
    train "pairs/nested-$seed" emoji_clip_mrl.py train,evaluate "${flags[@]}"
    train "pairs/alone-$seed" emoji_clip_mrl.py train,evaluate "${flags[@]}" \
      --config.nesting_dims=64 --config.eval_dims=8,16,32
  done
fi

if [ -n "$texts" ]; then
  for seed in $seeds; do
    train "texts/tuned-$seed" minilm_mrl.py train,evaluate \
      --config.seed="$seed" --config.init_from="$texts/encoder" \
      --config.dataset="$texts/pairs.jsonl" --config.text.columns=first,second \
      --config.text.weights=1,1 \
      --config.text.more="'cosent:$texts/sts_train.csv?columns=first,second,score'" \
      --config.eval_sets="'sts:$texts/sts_test.csv?columns=first,second,score'"
  done
fi

python -m mrl_jax.claims "$out"

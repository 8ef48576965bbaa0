#!/usr/bin/env bash
# Trains what the paper's claims need, and judges them:
#
#     bash runs/claims.sh [cpu|gpu] [--out=DIR] [--images=DATASET] \
#       [--texts=FOLDER] [--emoji=FOLDER] [--seeds='0 1 2']
#
# DATASET is a TFDS name or folder:/path with train/<class>/ and test/<class>/.
# --texts, a folder with encoder/ (of sentence-transformers), pairs.jsonl (first,
# second), sts_train.csv and sts_test.csv (first, second, score), adds the text
# encoder that is fine-tuned; --emoji, made by mrl_jax.data.prepare.emoji, images
# with texts. Started again, it goes on where it was. What a run prints is in
# DIR/logs. On CPUs each run has a core of its own: small images gain little from
# a second one. On two cores cpu with --emoji took 92 minutes, beside other work.
set -euo pipefail
cd "$(dirname "$0")/.."
size=cpu out=runs/claims images=cifar10 texts='' emoji='' seeds='0 1 2'
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
mkdir -p "$out/logs"
export out

# Runs the stages of one config in a workdir of its own; 255 ends xargs.
launch() {
  local name=$1 config=$2 modes=$3 begun=$SECONDS log
  log=$out/logs/${name//\//-}.log
  shift 3
  echo "$(date +%T) $name: $modes"
  if ! ${core:+taskset -c "$core"} python launch.py --config="configs/$config" \
    --workdir="$out/$name" --mode="$modes" "$@" >>"$log" 2>&1; then
    tail -n 5 "$log" >&2
    echo "claims.sh: $name failed: $log has what it printed" >&2
    return 255
  fi
  echo "$(date +%T) $name: finished in $((SECONDS - begun)) s"
}
export -f launch

# Queues a run, for `run_queue`: NAME CONFIG MODES [FLAGS].
queue=()
add() { queue+=("$(printf '%q ' "$@")"); }

cores=('')
if [ "$size" = cpu ] && command -v taskset >/dev/null; then
  read -ra cores < <(python -c 'import os; print(*os.sched_getaffinity(0))')
fi
export cores_text="${cores[*]}"

# Runs what is queued, one run a core.
run_queue() {
  printf '%s\n' "${queue[@]}" | xargs -d '\n' -n 1 -P ${#cores[@]} \
    --process-slot-var=slot bash -c \
    'read -ra cores <<<"$cores_text"; core=${cores[slot]-}; eval "launch $0"'
  queue=()
}

if [ "$size" = cpu ]; then
  shape=(--config.encoder=resnet8 --config.image_size=16 --config.eval_resize=16
    --config.eval_image_size=16 --config.shift=2 --config.num_epochs=3
    --config.peak_epoch=0.5)
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
mrl=("${shape[@]}" --config.nesting_dims="$dims" --config.eval_dims=$between
  --config.superclasses=runs/cifar10_superclasses.json)

for seed in $seeds; do
  common=("${shape[@]}" --config.seed="$seed")
  # The longest first, so that all cores are busy to the end.
  add "images/slim-$seed" cifar10_mrl.py train,evaluate "${common[@]}" \
    --config.head=mrl_e --config.slimmable --config.nesting_dims=$slim \
    --config.eval_dims="${dims%%,16*}"
  add "images/mrl-$seed" cifar10_mrl.py train,embed,evaluate,analyze \
    "${mrl[@]}" --config.seed="$seed"
  for width in $widths; do
    modes=train,embed,evaluate beyond='()'
    [ "$width" = $last ] && modes+=,analyze beyond=${dims%,*}
    add "images/ff$width-$seed" cifar10_mrl.py "$modes" "${common[@]}" \
      --config.head=fixed --config.nesting_dims="$width" \
      --config.eval_dims="$beyond"
  done
  add "images/mrl_e-$seed" cifar10_mrl.py train,evaluate "${common[@]}" \
    --config.head=mrl_e --config.nesting_dims="$dims" --config.eval_dims='()'
  add "images/boost-$seed" cifar10_mrl.py train "${common[@]}" \
    --config.nesting_dims="$dims" --config.nesting_weights=8boost
  add "texts/nested-$seed" text_mrl.py train,evaluate,export \
    --config.seed="$seed"
  if [ -n "$emoji" ]; then
    flags=(--config.dataset="$emoji/train" --config.seed="$seed"
      --config.eval_sets="'names=retrieval:$emoji/val?shortlist=20'")
    add "pairs/nested-$seed" emoji_clip_mrl.py train,evaluate "${flags[@]}"
    add "pairs/alone-$seed" emoji_clip_mrl.py train,evaluate "${flags[@]}" \
      --config.nesting_dims=64 --config.eval_dims=8,16,32
  fi
done
run_queue

for seed in $seeds; do
  for parts in head "$block.conv2,head" "$block,head"; do
    add "images/tuned-${parts//[,.]/_}-$seed" cifar10_mrl.py train \
      "${shape[@]}" --config.seed="$seed" --config.nesting_dims="$dims" \
      --config.num_epochs=2 --config.init_from="$out/images/ff$last-$seed" \
      --config.trainable="$parts"
  done
  if [ -n "$texts" ]; then
    add "texts/tuned-$seed" minilm_mrl.py train,evaluate --config.seed="$seed" \
      --config.init_from="$texts/encoder" \
      --config.dataset="$texts/pairs.jsonl" --config.text.columns=first,second \
      --config.text.weights=1,1 \
      --config.text.more="'cosent:$texts/sts_train.csv?columns=first,second,score'" \
      --config.eval_sets="'sts:$texts/sts_test.csv?columns=first,second,score'"
  fi
done
run_queue

# What is timed has the machine to itself.
for seed in $seeds; do
  launch "images/mrl-$seed" cifar10_mrl.py retrieve "${mrl[@]}" \
    --config.seed="$seed"
  # Nine heads and one, in turns.
  for head in mrl fixed; do
    launch "speed/$head-$seed" digits_mrl.py train --config.seed="$seed" \
      --config.encoder=resnet18 --config.num_epochs=3 --config.log_every_steps=5 \
      --config.eval_every_epochs=100 --config.eval_dims='()' --config.head=$head \
      --config.nesting_dims="$([ $head = mrl ] && echo 2,4,8,16,32,64,128,256,)512"
  done
done

# Tables 1 and 2 of the paper, and the claims.
python -m mrl_jax.compare --no-probe "$out"/images/{mrl,mrl_e,slim,ff*}-[0-9]* \
  | tee "$out/tables.txt"
python -m mrl_jax.claims "$out"

#!/usr/bin/env bash
# Trains all stages of a preset on a machine with a GPU that can be had for minutes and has no network.
#
#   recipes/gpu.sh MINUTES [options of recipes/gpu.py, as --init .carry/model]
#
# What is carried there is made before, where there is a network, and ignored by git:
#
#   python recipes/pack.py PHOTOS .carry/train.zip --megabytes 45
#   python recipes/pack.py VALIDATION .carry/val.zip --megabytes 3
#   pip download --no-deps --only-binary=:all: --python-version 3.12 \
#     --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d .carry/wheels \
#     pydantic pydantic-core annotated-types typing-inspection typing-extensions
#
# The model comes back in small files in OUT, which `python recipes/shards.py OUT MODEL` joins.
#
# The last training of the shipped models was this, on one H200, each with a CARRY, a WORK and an OUT
# of its own. The photos were not packed but lay in WORK/train as they are:
#
#   recipes/gpu.sh 6.8 --init MODEL --batch 128 \
#     --stages transformer,decoder,narrow --shares 0.01,0.25,0.6,0.15 \
#     --set transformer.run.compile=false --set transformer.optimiser.learning_rate=9e-4 \
#     --set transformer.optimiser.decay=0.8 --set decoder.optimiser.learning_rate=6e-4 \
#     --set decoder.examples.holes=thin,thin,thin,medium,thick,thick,box,box,blob,half \
#     --set narrow.optimiser.learning_rate=1.2e-3 --set narrow.loss.perceptual=1.0
#   recipes/gpu.sh 2.35 --preset cats64 --init MODEL --stages decoder --batch 192 \
#     --set decoder.optimiser.learning_rate=7e-4 --set decoder.optimiser.decay=0.9 \
#     --set decoder.loss.adversarial_start=0.05
set -euo pipefail
cd "$(dirname "$0")/.."
carry=${CARRY:-$PWD/.carry} work=${WORK:-/tmp/maskweave-gpu}
mkdir -p "$work"

if compgen -G "$carry/wheels/*.whl" > /dev/null; then
    python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
        --disable-pip-version-check --upgrade --target "$work/site" "$carry"/wheels/*.whl
fi
for photos in train val; do
    [ -d "$work/$photos" ] || python3 -m zipfile -e "$carry/$photos.zip" "$work/$photos"
done
[ ! -d "$carry/torch_home" ] || export TORCH_HOME=$carry/torch_home

# Each process that prepares batches has a core of its own.
export OMP_NUM_THREADS=1 PYTHONPATH=$PWD/src:$work/site PYTHONUNBUFFERED=1
exec python3 recipes/gpu.py --photos "$work/train" --validation "$work/val" \
    --output "$work/runs" --out "${OUT:-out}" "$@"

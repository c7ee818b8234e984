#!/usr/bin/env bash
# Trains the model `photos` from a folder of photos: all three stages, one after the other, and at
# last the decoder for narrow holes.
#
#   recipes/photos.sh PHOTOS VALIDATION RUNS
#
# The same command goes on where it was stopped. LPIPS needs torchvision's SqueezeNet weights, which
# are downloaded once or found in TORCH_HOME. The shipped weights took 12.7 hours of about one CPU
# core in bfloat16, without 5,850 steps that were not timed, and 6.8 minutes of an H200 (gpu.sh);
# their card tells what the presets do otherwise.
set -euo pipefail
photos=$1 validation=$2 runs=$3

train() {
    local stage=$1
    shift
    maskweave train "$stage" --preset photos --data "$photos" --validation "$validation" "$@"
}

train tokenizer --output "$runs/1-tokenizer"
train transformer --tokenizer "$runs/1-tokenizer" --output "$runs/2-transformer"
train decoder --model "$runs/2-transformer" --output "$runs/3-decoder"
train narrow --model "$runs/3-decoder" --output "$runs/4-narrow"
echo "$runs/4-narrow is the model: maskweave inpaint --model $runs/4-narrow ..."

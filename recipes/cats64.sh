#!/usr/bin/env bash
# Trains the model `cats64` from a folder of faces of cats: all three stages, one after the other.
#
#   recipes/cats64.sh CATS VALIDATION RUNS
#
# The same command goes on where it was stopped. The stages of the shipped weights took about 45, 97
# and 85 minutes on two CPU cores in bfloat16, their last decoder 3.3 hours of one core and 75 seconds
# of an H200; their card tells what the presets do otherwise.
set -euo pipefail
data=(--data "$1" --validation "$2") runs=$3

maskweave train tokenizer "${data[@]}" --output "$runs/1-tokenizer"
maskweave train transformer "${data[@]}" --tokenizer "$runs/1-tokenizer" --output "$runs/2-model"
maskweave train decoder "${data[@]}" --model "$runs/2-model" --output "$runs/3-model"
echo "$runs/3-model is the model: maskweave inpaint --model $runs/3-model ..."

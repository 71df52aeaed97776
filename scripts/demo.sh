#!/usr/bin/env bash
# Simulate a crowded tomogram, fit, restore and evaluate it against every baseline: about 9 minutes
# on two cores, everything in ./demo. Fails if the result is below the best baseline in the wedge.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/install.sh ""

out="${CRYOAAE_DEMO_DIR:-demo}"
steps="${CRYOAAE_DEMO_STEPS:-600}"
halves=(--even "$out/data/even.mrc" --odd "$out/data/odd.mrc" --tilts "$out/data/tilts.tlt")

echo "1/4 simulate a crowded tomogram of 96 x 96 x 96 voxels"
.venv/bin/cryoaae simulate -o "$out/data" --shape 96 96 96 --snr 0.5 --seed 7 --overwrite
echo "2/4 fit a restorer on it ($steps steps: about 5 minutes on two cores)"
.venv/bin/cryoaae fit "${halves[@]}" -o "$out/run" --steps "$steps" --overwrite
echo "3/4 restore"
.venv/bin/cryoaae restore "${halves[@]}" --model "$out/run" -o "$out/restored.mrc" --halves --overwrite
echo "4/4 evaluate against the truth, beside every baseline"
.venv/bin/cryoaae evaluate "$out/restored.mrc" --truth "$out/data/truth.mrc" "${halves[@]}" \
    -o "$out/evaluation" --require-wedge
echo "look at $out/evaluation/report.html"

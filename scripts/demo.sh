#!/usr/bin/env bash
# Simulate a crowded tomogram, restore it with the restorer that comes along, fit that further on it, restore again and
# evaluate both against every baseline: about 8 minutes on two cores, everything in ./demo. Fails if a result is below
# the best baseline in the wedge.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/install.sh ""

out="${CRYOAAE_DEMO_DIR:-demo}"
steps="${CRYOAAE_DEMO_STEPS:-150}"
halves=(--even "$out/data/even.mrc" --odd "$out/data/odd.mrc" --tilts "$out/data/tilts.tlt")
check() {
    .venv/bin/cryoaae evaluate "$out/$1.mrc" --truth "$out/data/truth.mrc" "${halves[@]}" -o "$out/$1" --require-wedge
}

echo "1/5 simulate a crowded tomogram of 96 x 96 x 96 voxels"
.venv/bin/cryoaae simulate -o "$out/data" --shape 96 96 96 --snr 0.5 --seed 7 --overwrite
echo "2/5 restore it without a fit, and evaluate against the truth, beside every baseline"
.venv/bin/cryoaae restore "${halves[@]}" -o "$out/at_once.mrc" --halves --overwrite
check at_once
echo "3/5 fit a restorer on it that starts from the one that comes along ($steps steps: about 4 minutes on two cores)"
.venv/bin/cryoaae fit "${halves[@]}" -o "$out/run" --steps "$steps" --overwrite
echo "4/5 restore with it"
.venv/bin/cryoaae restore "${halves[@]}" --model "$out/run" -o "$out/restored.mrc" --halves --overwrite
echo "5/5 evaluate"
check restored
echo "look at $out/at_once/report.html and $out/restored/report.html"

#!/usr/bin/env bash
# Make phantoms, then train, evaluate and run both bundles on them, and write quickstart/report.html.
# Installs what it needs; downloads nothing but Python packages. How long it takes: see "Quickstart" in README.md.
set -euo pipefail
[ $# -eq 0 ] || { echo "error: found $1, expected no arguments" >&2; exit 1; }
. "$(dirname "$0")/environment.sh"

out=quickstart
rm -rf "$out"
started=$SECONDS

show() { # print a command as one would type it, then run it
    printf '\n\033[1m$'
    for word in "$@"; do
        case $word in *[\'\"\ \[]*) printf ' "%s"' "$word" ;; *) printf ' %s' "$word" ;; esac
    done
    printf '\033[0m\n'
    "$@"
}

bundle() { # train, evaluate and run one bundle: its name, its phantoms, the images to predict, options of evaluating
    local name=$1 data=$2 images=$3
    local configs=bundles/$name/configs folders=(--bundle_root "bundles/$name" --model_dir "$out/$name/models")
    show python -m monai.bundle run training \
        --config_file "['$configs/train.json','$configs/quickstart.json']" \
        "${folders[@]}" --dataset_dir "$data" --cache_dir "$out/cache" --output_dir "$out/$name/training"
    show python -m monai.bundle run evaluating \
        --config_file "['$configs/train.json','$configs/quickstart.json','$configs/evaluate.json']" \
        "${folders[@]}" --dataset_dir "$data/held_out.json" --subset all --cache_dir "$out/cache" \
        --output_dir "$out/$name/held_out" "${@:4}"
    show python -m monai.bundle run inferring \
        --config_file "['$configs/inference.json','$configs/quickstart.json']" \
        "${folders[@]}" --dataset_dir "$images" --output_dir "$out/$name/predictions"
}

show python scripts/make_phantoms.py abdomen --output "$out/abdomen"
show python scripts/make_phantoms.py scroll --output "$out/scroll"
bundle liver_tumor_2d "$out/abdomen" "$out/abdomen/test"
score=()
if ! python -c 'import sys; from custom.ops.betti import betti_available; sys.exit(not betti_available())'; then
    echo "TopoScore needs the package topolosses, which this system lacks: the score is that of the other two parts."
    score=(--validate#metric#parts "['surface_dice','voi_score']")
fi
bundle vesuvius_surface_3d "$out/scroll" "$out/scroll/test_images" ${score[@]+"${score[@]}"}
show python scripts/report.py "$out"/{liver_tumor_2d,vesuvius_surface_3d}/{training,held_out} \
    --goals "{'held_out/liver_dice': 0.9, 'held_out/surface_dice': 0.8}" --output "$out/report.html"
echo "Done in $((SECONDS - started)) s after installation."

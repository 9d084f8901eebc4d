"""The table of the liver's experiments from folders of runs made by hand."""

import json

from scripts.experiments_liver import table


def test_the_table_holds_scores_and_time(tmp_path):
    for name, tumour in (("v2", 0.5), ("other", None)):
        for part in ("training", "held_out"):
            (tmp_path / name / part).mkdir(parents=True)
        (tmp_path / name / "training" / "metrics.csv").write_text("epoch,step,seconds\n1,10,60\n2,20,150.4\n")
        mean = {"liver": {"dice": 0.8}, "tumor": {"dice": tumour}, "lesions": {"f1": 2 / 3}}
        (tmp_path / name / "held_out" / "scores.json").write_text(json.dumps({"mean": mean}))
    head, _, first, second = table([tmp_path / "v2", tmp_path / "other"]).splitlines()
    assert head == "| version | liver Dice | tumour Dice | lesion F1 | training |"
    assert first == "| v2 | 0.800 | 0.500 | 0.667 | 3 min |"
    assert second == "| other | 0.800 | - | 0.667 | 3 min |"

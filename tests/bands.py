"""Keep the accuracy: errors on measured runs against the bands of `accuracy_bands.json`, which change on purpose only.

    python -m tests.bands             # every file; fails where an error is above its band
    python -m tests.bands --update    # after a look at the difference: write the errors of today as the new bands

The measured runs are not part of the project: they are looked for in `../shared/data`.
"""

import json
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from simfleet.evidence.accuracy import Accuracy, accuracy
from simfleet.library import Library

DATA = Path(__file__).parents[2] / "shared" / "data"
SERVING = DATA / "serving"
BANDS = Path(__file__).with_name("accuracy_bands.json")
METRICS = ("ttft_mean_s", "tpot_mean_s", "e2e_mean_s", "output_tok_per_s", "total_tok_per_s")
ENERGY = "energy/calibration/mlenergy_v3_llm.csv"
ENERGY_METRICS = ("output_tok_per_s", "joules_per_token", "power_imposed", "power_predicted")
"""Of runs with measured watts, whose bands are those of devices and tasks."""
QUICK = (
    "validation/aic_silicon_dense_agg.csv", "validation/aic_silicon_moe_agg.csv", "validation/blis_vllm_serving.csv",
    "validation/h200_gptoss120b_vllm.csv",
)  # fmt: skip
FILES = (
    *QUICK, "validation/trtllm_perf_overview.csv", "validation/inferencex_dsr1_latest.csv", "validation/mlperf_llm.csv",
    "validation/argonne_llm_inference_bench.csv", "validation/tpu_vllm_serving.csv", "validation/dstack_h100_mi300x.csv",
    "calibration/aic_silicon_dense_agg.csv", "calibration/aic_silicon_moe_agg.csv", "calibration/blis_vllm_serving.csv",
    "calibration/h200_gptoss120b_vllm.csv", "calibration/inferencex_dsr1_latest.csv", ENERGY,
)  # fmt: skip
SLACK = 1.02, 0.002
"""An error may be above its band by this share and this much: libraries round differently."""


def errors(names: Iterable[str]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """File -> group -> metric -> [rows, median, p90 and bias of the errors, in per cent]."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    with ProcessPoolExecutor(2) as executor:
        for name in names:
            watts = name == ENERGY
            runs: Accuracy = accuracy([(DATA if watts else SERVING) / name], Library(), executor=executor)
            groups = found.setdefault(name, {})
            for group in runs.groups(ENERGY_METRICS if watts else METRICS):
                if "=" not in group["group"] and not (watts and group["group"].count(" ") > 1):
                    numbers = [group["n"], *(round(100 * group[key], 1) for key in ("median_ape", "p90_ape", "bias"))]
                    groups.setdefault(group["group"], {})[group["metric"]] = numbers
    return found


def broken(
    now: dict[str, dict[str, dict[str, list[float]]]], bands: dict[str, dict[str, dict[str, list[float]]]]
) -> list[str]:
    """One line for every error above its band, and for every group whose rows have become fewer."""
    lines = []
    for name, groups in now.items():
        for group, metrics in bands.get(name, {}).items():
            for metric, (rows, band, *_) in metrics.items():
                n, error = groups.get(group, {}).get(metric, [0, 0.0])[:2]
                if n < rows:
                    lines.append(f"{name}: {group}: {metric}: {n} rows, there were {rows}")
                elif error > band * SLACK[0] + 100 * SLACK[1]:
                    lines.append(f"{name}: {group}: {metric}: median error {error} %, the band is {band} %")
    return lines


def main(arguments: list[str]) -> int:
    now = errors(FILES)
    if arguments == ["--update"]:
        BANDS.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        return 0
    for name, groups in now.items():
        for group, metrics in groups.items():
            print(
                f"{name:42} {group:52}",
                *(f"{metric[:4]} {n:4} {median:5.1f} {p90:6.1f}" for metric, (n, median, p90, _) in metrics.items()),
            )
    lines = broken(now, json.loads(BANDS.read_text(encoding="utf-8")))
    print("\n".join(lines) or "all within their bands")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

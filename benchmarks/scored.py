"""Write the list of the specimens that benchmarks score, which pretraining leaves out.

Of each a digest of every plane (:mod:`aequorea.workflows.scored`); run it again when a benchmark scores another one.

    python benchmarks/scored.py
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from aequorea.workflows.open import open as open_volume
from aequorea.workflows.scored import LIST, line
from restoration import SCORED

FILES = {
    "restore_many": (
        *(f"open/{path}.tif" for path in SCORED.values()),
        "bench_only/w2s/*.tif",
        "bench_only/fmd/*.*",
        "bench_only/projection_epithelium/*stack.tif",
        "bench_only/projection_epithelium/reference_projection.tif",
        "bench_only/light_field/guv_*_lightfield.tif",
        "bench_only/light_field/guv_sim_rectified.tif",
        "bench_only/light_field/guv_sim_volume.tif",
        "bench_only/light_field/mouse_*.tif",
        "bench_only/lsm_fm/*.tif",
        "open/deconv_redlionfish/points_blurred_poisson.tif",
        "open/neubias_confocal/dna_confocal_and_widefield.tif",
    ),
    "mae": (
        "bench_only/cells3d/hipsc.tif",
        "bench_only/flybrain/fly_brain.tif",
        "bench_only/vesselnn/*.tif",
        "bench_only/vesselexpress/*.tif",
        "bench_only/rivulet_stack/*.tif",
    ),
}
"""By objective; of volumes with labels the images."""


def main() -> int:
    """Write the list."""
    data = Path(os.environ.get("AEQUOREA_DATA") or Path(__file__).parents[2] / "shared" / "data")
    rows = []
    for objective, patterns in FILES.items():
        for pattern in patterns:
            found = [path for path in sorted(data.glob(pattern)) if "_label" not in path.name]
            if not found:
                print(f"{data / pattern}: nothing there; set AEQUOREA_DATA to the folder of the images")
                return 2
            rows += [line(objective, str(path.relative_to(data)), open_volume(path)) for path in found]
    LIST.write_text("\n".join(rows) + "\n", encoding="utf-8")
    print(f"{LIST}: {len(rows)} specimens, {LIST.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Compose the picture of the README from what ``aequorea demo`` wrote.

aequorea demo
python docs/make_picture.py aequorea-demo
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PANEL = 476
GAP = 6
SIZE, SIDE = 300, 180
"""Pixels of a panel, and the height of the part of the side view that is shown."""
CAPTIONS = ("a volume never seen", "what was found", "right, wrong, missed")
OUT = Path(__file__).parent / "pictures" / "demo.png"


def compose(demo: Path) -> Image.Image:
    """Return image, result and errors of the specimen side by side: a plane along z above one along y."""
    names = ("01_1_image.png", "01_3_result.png", "01_4_errors.png")
    step, head = SIZE + GAP, 28
    page = Image.new("RGB", (3 * step - GAP, head + step + SIDE), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(16)
    for column, (name, caption) in enumerate(zip(names, CAPTIONS)):
        sheet = Image.open(demo / "pictures" / name).convert("RGB")
        for row, top in enumerate((0, sheet.height - PANEL)):
            panel = sheet.crop((0, top, PANEL, top + PANEL)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
            panel = panel.crop((0, 0, SIZE, SIDE)) if row else panel
            page.paste(panel, (column * step, head + row * step))
        draw.text((column * step, 5), caption, fill="black", font=font)
    return page


if __name__ == "__main__":
    page = compose(Path(sys.argv[1]))
    # Colours are few but rare beside the greys: octrees keep them, medians of the histogram do not.
    page.quantize(200, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(OUT, optimize=True)
    print(f"{OUT}: {OUT.stat().st_size:,} bytes")

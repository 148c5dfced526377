"""Make assets/demo-images: five crops of a photograph of a cat, a sample of scikit-image (CC0).

pip install scikit-image && python scripts/make_demo_images.py [folder]
"""

import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SIDE = 128

# Left, top and side of the squares in the photograph, 451 x 300; all show both eyes and the nose.
CROPS = {
    "chelsea-1.jpg": (76, 0, 300),
    "chelsea-2.jpg": (40, 0, 300),
    "chelsea-3.jpg": (120, 40, 240),
    "chelsea-4.jpg": (125, 68, 220),
    "chelsea-5.jpg": (151, 0, 300),
}


def main(folder: Path):
    try:
        from skimage.data import chelsea  # pyright: ignore[reportMissingImports]
    except ImportError:
        sys.exit("scikit-image is needed, for its photograph: pip install scikit-image")
    photograph = Image.fromarray(chelsea())
    folder.mkdir(parents=True, exist_ok=True)
    for name, (left, top, side) in CROPS.items():
        crop = photograph.crop((left, top, left + side, top + side))
        crop.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(folder / name, quality=90)
    print(f"{folder}: {len(CROPS)} pictures")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "assets" / "demo-images")

"""Makes the excerpts beside this file from Debian's packages.

    python3 tests/data/pictures/make.py        fontTools 4.68.0, Pillow, numpy
    fonts-noto-color-emoji 2.042-0+deb12u1, unicode-data 15.0.0-1, dataset-fashion-mnist 0.0~git20200523.55506a9-1

emoji.ttf        the font with the glyphs of a few emoji, their ligatures and bitmaps
emoji-test.txt   the lines of these emoji
emoji-32.bin     the same pictures as numpy computes them at 32x32, to compare with
folder/          some of the bitmaps as PNG files with captions, one folder a class
fashion/         the first pictures of each half of Fashion-MNIST
"""

import gzip
import io
import json
import pathlib
import shutil

import numpy as np
from fontTools import subset
from fontTools.ttLib import TTFont
from PIL import Image

HERE = pathlib.Path(__file__).parent
FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
NAMES = "/usr/share/unicode/emoji/emoji-test.txt"
FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")
WANTED = [
    "waving hand", "waving hand: dark skin tone", "red heart", "woman", "woman: medium skin tone",
    "woman firefighter", "woman firefighter: medium skin tone", "red apple", "green apple", "fire engine",
    "keycap: 1", "black flag", "flag: Japan", "flag: England",
]
FRACTION = 32
COUNT = 100


def excerpt_names():
    """The wanted lines under their groups, as text and as (code points, name)."""
    heads, lines, wanted = {}, [], []
    for line in open(NAMES, encoding="utf-8"):
        if line.startswith("# group: "):
            heads = {"group": line}
        elif line.startswith("# subgroup: "):
            heads["subgroup"] = line
        elif ";" in line and not line.startswith("#"):
            points, rest = line.split(";")
            name = rest.split("#", 1)[1].strip().split(" ", 2)[2]
            if name in WANTED:
                for key in list(heads):
                    lines.append(heads.pop(key))
                lines.append(line)
                if "fully-qualified" in rest:
                    wanted.append(([int(p, 16) for p in points.split()], name))
    assert len(wanted) == len(WANTED), wanted
    return "".join(lines), wanted


def excerpt_font(wanted):
    options = subset.Options()
    options.layout_features = ["ccmp"]
    options.name_IDs = ["*"]
    options.notdef_outline = False
    options.glyph_names = False
    font = subset.load_font(FONT, options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes={p for points, _ in wanted for p in points if p != 0xFE0F})
    subsetter.subset(font)
    font["head"].modified = font["head"].created
    font.recalcTimestamp = False
    font.save(HERE / "emoji.ttf")


def bitmaps(wanted):
    """Every wanted emoji's PNG, through the font's own tables read with fontTools."""
    font = TTFont(FONT)
    cmap, strike = font.getBestCmap(), font["CBDT"].strikeData[0]
    ligatures = font["GSUB"].table.LookupList.Lookup[0].SubTable[0].ligatures
    out = []
    for points, name in wanted:
        glyphs = [cmap[p] for p in points if p != 0xFE0F]
        if len(glyphs) > 1:
            [glyph] = [l.LigGlyph for l in ligatures[glyphs[0]] if l.Component == glyphs[1:]]
        else:
            [glyph] = glyphs
        out.append((name, bytes(strike[glyph].imageData)))
    return out


def at_size(png, size):
    """White below, 136x136 around, means of areas."""
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    rgba = np.asarray(picture).astype(np.float64)
    alpha = rgba[..., 3:] / 255
    rgb = rgba[..., :3] * alpha + 255 * (1 - alpha)
    square = np.full((136, 136, 3), 255.0)
    top, left = (136 - rgb.shape[0]) // 2, (136 - rgb.shape[1]) // 2
    square[top : top + rgb.shape[0], left : left + rgb.shape[1]] = rgb
    # Each pixel into `size` parts along both axes: then every new pixel is 136 x 136 whole parts.
    weights = np.zeros((size, 136))
    for i in range(size):
        for part in range(i * 136, (i + 1) * 136):
            weights[i, part // size] += 1 / 136
    return np.einsum("iy,jx,yxc->ijc", weights, weights, square)


def excerpt_fashion():
    folder = HERE / "fashion"
    folder.mkdir()
    for half in ["train", "t10k"]:
        for kind, header, each in [("images-idx3", 16, 784), ("labels-idx1", 8, 1)]:
            name = f"{half}-{kind}-ubyte.gz"
            data = bytearray(gzip.open(FASHION / name).read()[: header + COUNT * each])
            data[4:8] = COUNT.to_bytes(4, "big")
            (folder / name).write_bytes(gzip.compress(bytes(data), mtime=0))


def main():
    for folder in ["folder", "fashion"]:
        shutil.rmtree(HERE / folder, ignore_errors=True)
    text, wanted = excerpt_names()
    (HERE / "emoji-test.txt").write_text(text, encoding="utf-8")
    excerpt_font(wanted)
    pictures = bitmaps(wanted)
    expected = np.stack([at_size(png, FRACTION) for _, png in pictures])
    (HERE / "emoji-32.bin").write_bytes(np.floor(expected + 0.5).astype(np.uint8).tobytes())
    classes = {"red apple": "fruit", "green apple": "fruit", "red heart": "heart", "woman firefighter": "person"}
    lines = []
    for name, png in pictures:
        if name in classes:
            file = f"{classes[name]}/{name.replace(' ', '-')}.png"
            path = HERE / "folder" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png)
            lines.append(json.dumps({"file_name": file, "text": name}))
    (HERE / "folder" / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    excerpt_fashion()


if __name__ == "__main__":
    main()

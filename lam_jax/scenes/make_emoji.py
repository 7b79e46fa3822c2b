"""Makes the vendored emoji subset: `assets/emoji/sprites.png` and `assets/emoji/concepts.json`.

    python -m lam_jax.scenes.make_emoji            # downloads the package with `npm pack`
    python -m lam_jax.scenes.make_emoji --package emoji-datasource-google-16.0.0.tgz

The pictures are Noto Emoji (Apache-2.0; LICENSE and NOTICE lie beside the output) as published in the npm package
`emoji-datasource-google` 16.0.0. The concepts below were picked to look different from one another at 32 pixels and to
have a common one-word English name. Sprite i of the sheet is entry i of concepts.json, 16 sprites to a row.
"""

import argparse
import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

from PIL import Image

PACKAGE = "emoji-datasource-google@16.0.0"
ASSETS = Path(__file__).parent / "assets" / "emoji"
SIZE = 32
COLUMNS = 16

# category -> emoji short names, each with our name after a colon where it differs, and the plural after a slash where
# it is not formed with a plain s.
CONCEPTS = {
    "animal": "cat2:cat dog2:dog elephant fox_face:fox/foxes lion_face:lion panda_face:panda frog whale crab "
    "octopus/octopuses turtle butterfly/butterflies penguin owl flamingo",
    "fruit": "apple banana tangerine:orange lemon watermelon pineapple strawberry/strawberries pear peach/peaches "
    "kiwifruit:kiwi avocado coconut",
    "food": "pizza hamburger:burger taco doughnut:donut cookie pretzel pancakes:pancake fried_egg:egg cupcake "
    "bread:loaf/loaves croissant hotdog",
    "vehicle": "car bus/buses tractor bike:bicycle truck rocket airplane:plane helicopter boat scooter "
    "steam_locomotive:train",
    "tool": "hammer wrench/wrenches carpentry_saw:saw axe screwdriver shovel ladder broom magnet bucket key",
    "garment": "shirt dress/dresses womans_hat:hat scarf/scarves gloves:glove boot billed_cap:cap necktie:tie coat "
    "crown socks:sock",
    "plant": "evergreen_tree:pine palm_tree:palm deciduous_tree:oak cactus/cactuses rose tulip sunflower "
    "four_leaf_clover:clover lotus/lotuses maple_leaf:leaf/leaves",
    "instrument": "guitar violin trumpet drum_with_drumsticks:drum musical_keyboard:piano harp banjo "
    "accordion saxophone",
    "toy": "basketball soccer:ball skateboard kite yo-yo:yoyo balloon teddy_bear:teddy/teddies tennis:racket "
    "jigsaw:puzzle sled",
    "building": "house european_castle:castle church/churches school hospital factory/factories tent hut "
    "tokyo_tower:tower classical_building:temple circus_tent:circus/circuses",
}


def concepts() -> list[dict[str, str]]:
    """The vendored concepts in sheet order: {"name", "plural", "category", "emoji"}."""
    rows = []
    for category, words in CONCEPTS.items():
        for word in words.split():
            word, _, plural = word.partition("/")
            emoji, _, name = word.partition(":")
            name = name or emoji
            rows.append({"name": name, "plural": plural or name + "s", "category": category, "emoji": emoji})
    return rows


def download(folder: Path) -> Path:
    """The package's tarball, fetched into `folder` by the npm client."""
    subprocess.run(["npm", "pack", PACKAGE, "--silent"], cwd=folder, check=True)
    return next(folder.glob("*.tgz"))


def make(package: Path, out: Path = ASSETS) -> None:
    """Writes sprites.png and concepts.json under `out` from the npm tarball `package`.

    Raises KeyError if the package lacks one of the concepts' pictures.
    """
    rows = concepts()
    with tarfile.open(package) as archive:

        def read(name: str) -> bytes:
            member = archive.extractfile(f"package/{name}")
            if member is None:
                raise KeyError(f"{package}: package/{name} is not a file; expected {PACKAGE}")
            return member.read()

        images = {entry["short_name"]: entry["image"] for entry in json.loads(read("emoji.json"))}
        lines = -(-len(rows) // COLUMNS)
        sheet = Image.new("RGBA", (COLUMNS * SIZE, lines * SIZE))
        for i, row in enumerate(rows):
            picture = Image.open(io.BytesIO(read(f"img/google/64/{images[row['emoji']]}"))).convert("RGBA")
            picture = picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
            sheet.paste(picture, (i % COLUMNS * SIZE, i // COLUMNS * SIZE))
    out.mkdir(parents=True, exist_ok=True)
    sheet.save(out / "sprites.png", optimize=True)
    lines_json = ",\n".join(json.dumps(row) for row in rows)
    (out / "concepts.json").write_text(f"[\n{lines_json}\n]\n")


def main() -> None:
    """Command line: makes the subset from a given tarball, or downloads it first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, help="npm tarball; downloaded with `npm pack` if not given")
    parser.add_argument("--out", type=Path, default=ASSETS)
    args = parser.parse_args()
    if args.package is not None:
        make(args.package, args.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        make(download(Path(folder)), args.out)


if __name__ == "__main__":
    main()

"""Draw the picture of the README, ``docs/ranking.svg``: a history, attention, a ranked list.

    python docs/tools/draw_ranking.py

Simulates a log of users with three hobbies each, who buy the items of a hobby roughly in order.
Trains ``dien`` on it, and draws attention and ranking for one user.
"""

import dataclasses
import random
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
from draw_architecture import DOCS, arrow, picture, text

from dien_jax import Ranker, fit, load_run, make_dataset, preset
from dien_jax.inspection import Inspector

HOBBIES = {
    "coffee": ["grinder", "kettle", "coffee beans", "filter papers", "scale", "milk jug", "cups"],
    "camping": ["tent", "sleeping bag", "mat", "stove", "headlamp", "rope", "water filter"],
    "running": ["running shoes", "socks", "shorts", "watch", "cap", "bottle", "energy gels"],
    "drawing": ["sketchbook", "pencils", "eraser", "ink", "brushes", "watercolours", "easel"],
    "garden": ["trowel", "seeds", "pots", "compost", "gloves", "watering can", "shears"],
    "baking": ["flour", "yeast", "bread tin", "whisk", "rolling pin", "oven cloth", "thermometer"],
    "music": ["guitar", "strings", "tuner", "capo", "music stand", "songbook", "amplifier"],
    "cycling": ["bicycle", "helmet", "lock", "pump", "bike light", "saddle bag", "repair kit"],
}
ANN = "grinder tent kettle sleeping_bag sketchbook coffee_beans mat filter_papers stove headlamp"
"""One user's events; the last two are held out, for validation and test."""
USERS, SEED = 3000, 0
FILL, WEAK, ROW, TOP = "#4f46e5", "#c7d2fe", 37.0, 92.0


def made_log() -> pa.Table:
    """Return the log: user, item, category, timestamp."""
    draw, rows = random.Random(SEED), []
    category = {item: hobby for hobby, items in HOBBIES.items() for item in items}
    for user in range(USERS):
        places = {hobby: draw.randrange(3) for hobby in draw.sample(list(HOBBIES), 3)}
        for _ in range(draw.randrange(6, 13)):
            hobby = draw.choice(list(places))
            items = HOBBIES[hobby]
            item = items[places[hobby] % len(items)]
            places[hobby] += 1 if draw.random() < 0.9 else 2
            rows.append((f"user {user}", item, category[item], len(rows)))
    for item in ANN.split():
        name = item.replace("_", " ")
        rows.append(("Ann", name, category[name], len(rows)))
    return pa.table(
        dict(zip(("user", "item", "category", "timestamp"), zip(*rows, strict=True), strict=True))
    )


def bar(x: float, y: float, width: float, fill: str) -> str:
    """Return a horizontal bar in a row."""
    return f'<rect x="{x:g}" y="{y + 6:g}" width="{width:g}" height="{ROW - 12:g}" fill="{fill}"/>'


def left(x: float, y: float, content: str, *, bold: bool = False) -> str:
    """Return a line of text that starts at x."""
    return f'<g text-anchor="start">{text(x, y + ROW / 2 + 6, content, 19, bold=bold)}</g>'


def main() -> int:
    """Train a model, and draw the picture."""
    if sys.argv[1:]:  # such as --help: minutes of training, and another picture
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder) / "data", Path(folder) / "run"
        dataset = make_dataset(made_log(), data, item_features=["category"], split="last-event")
        config = preset("dien")
        train = dataclasses.replace(config.train, max_history=16, buckets=(), epochs=12)
        fit(dataclasses.replace(config, train=train), data=dataset, run_dir=run, seed=SEED)
        inspector, test = Inspector(load_run(run)), dataset.splits["test"]
        group = dataset.groups().index("Ann")
        number = next(n for n, g in enumerate(test.group) if g == group and test.label[n] == 1)
        [example] = inspector.examples("test", [number])
        bought = [behaviour.item for behaviour in example.behaviours]
        ranking = Ranker(run).recommend(bought, 5, user="Ann")
    clicked = example.candidate.item
    print(clicked, *zip(bought, example.measures["attention"], strict=True), sep="\n")
    print(*zip(ranking.ids, ranking.scores, strict=True), sep="\n")
    parts = []
    for x, title, below in (
        (30, "Ann's purchases", "oldest first"),
        (330, "attention", f"to each, for “{clicked}”"),
        (640, "the next items", "ranked by DIEN"),
    ):
        parts += [left(x, 10, title, bold=True), left(x, 36, below)]
    attention = example.measures["attention"]
    for row, (item, weight) in enumerate(zip(bought, attention.tolist(), strict=True)):
        y, width = TOP + row * ROW, 210 * weight / float(attention.max())
        parts += [left(30, y, item), bar(330, y, max(width, 2), FILL)]
        parts += [left(338 + width, y, f"{weight:.2f}")]
    middle = TOP + 2.5 * ROW
    parts.append(arrow(590, middle, 626, middle))
    for place, item in enumerate(ranking.ids):
        y, found = TOP + place * ROW, item == clicked
        parts += [bar(636, y, 250, WEAK)] if found else []
        parts.append(left(646, y, f"{place + 1}  {item}", bold=found))
    if clicked in ranking.ids:
        y = TOP + len(ranking.ids) * ROW + 8
        parts += [
            left(640, y, "marked: bought next,"),
            left(640, y + 26, "not seen in training"),
        ]
    height = TOP + len(bought) * ROW + 20
    title = "A user's purchases, DIEN's attention to them, and the ranked list of next items"
    (DOCS / "ranking.svg").write_text(picture(title, height, parts), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

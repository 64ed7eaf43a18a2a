"""A synthetic log of users whose interest moves from one category of items to another."""

import csv
import random
from pathlib import Path

DAY = 86_400
USERS, ITEMS, CATEGORIES = 200, 120, 6


def write_log(file: Path, days: int, *, seed: int = 0) -> Path:
    """Write ``user,item,category,timestamp``: one to three events of a user on most days."""
    draw = random.Random(seed)
    interest = {user: draw.randrange(CATEGORIES) for user in range(USERS)}
    rows = []
    for day in range(days):
        for user in range(USERS):
            if draw.random() < 0.2:
                interest[user] = (interest[user] + 1) % CATEGORIES
            for _ in range(draw.choice((0, 1, 1, 2, 3))):
                category = interest[user] if draw.random() < 0.8 else draw.randrange(CATEGORIES)
                item = category + CATEGORIES * min(
                    int(draw.expovariate(0.2)), ITEMS // CATEGORIES - 1
                )
                time = 1_700_000_000 + day * DAY + draw.randrange(DAY)
                rows.append((time, f"user {user}", f"item {item}", f"category {category}"))
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("user", "item", "category", "timestamp"))
        writer.writerows(
            (user, item, category, time) for time, user, item, category in sorted(rows)
        )
    return file

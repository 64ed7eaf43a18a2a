"""The log, the requests and the tables that make.py gives to the code of commit 9d7d61d."""

import csv
import io
import math
import random
from typing import Any

SEED = "9d7d61d"

USERS, ITEMS, REQUESTS, SHOWN = 40, 44, 440, 3
LATE_USERS = 4
"""Users whose events all lie at the end of the log, where training does not see them."""
START = 1_700_000_000
ODD_ITEMS = ["crème brûlée", "back\\slash", 'a "quoted", item']
CATEGORIES = ["bread", "cheese", "fruit", "soup"]
TAGS = ["cold", "fresh", "local", "sweet", "vegan"]
AGES = ["18-30", "31-50", "51+"]
DEVICES = ["desk", "phone", "tablet"]


def items() -> list[str]:
    """Raw ids of all items."""
    return [*ODD_ITEMS, *(f"item {number}" for number in range(len(ODD_ITEMS), ITEMS))]


def impressions() -> list[dict[str, Any]]:
    """Rows of the log, oldest first: users mostly click items of the category they prefer."""
    rng = random.Random(SEED)
    described = {
        item: {
            "category": CATEGORIES[place % len(CATEGORIES)],
            "tags": "|".join(sorted(rng.sample(TAGS, rng.randrange(4)))),
            "price": "" if place % 11 == 5 else f"{rng.uniform(1, 30):.2f}",
        }
        for place, item in enumerate(items())
    }
    profiles = [
        {
            "age": "" if user % 9 == 4 else rng.choice(AGES),
            "interests": "|".join(sorted(rng.sample(CATEGORIES, rng.randrange(3)))),
        }
        for user in range(USERS)
    ]
    preferred = [rng.randrange(len(CATEGORIES)) for _ in range(USERS)]
    rows = []
    for number in range(REQUESTS):
        late = number > REQUESTS * 0.9 and rng.random() < 0.3
        first, stop = (USERS - LATE_USERS, USERS) if late else (0, USERS - LATE_USERS)
        user = rng.randrange(first, stop)
        if rng.random() < 0.05:
            preferred[user] = rng.randrange(len(CATEGORIES))
        device = rng.choice(DEVICES)
        request = {
            "device": device,
            "query": "|".join(rng.sample(TAGS, rng.randrange(3))),
            "hour": number // 6 % 24,
        }
        shown = {items()[min(int(rng.expovariate(1 / 12)), ITEMS - 1)] for _ in range(SHOWN)}
        for item in sorted(shown):
            likes = described[item]["category"] == CATEGORIES[preferred[user]]
            logit = (2.5 if likes else -1.0) + (0.7 if device == "phone" else 0.0)
            rows.append(
                {
                    "user": f"user {user}",
                    "item": item,
                    "timestamp": START + 600 * number,
                    "label": int(rng.random() < 1 / (1 + math.exp(-logit))),
                    **described[item],
                    **profiles[user],
                    **request,
                }
            )
    return rows


def csv_text(rows: list[dict[str, Any]]) -> str:
    """A CSV table with a header."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def requests() -> list[dict[str, Any]]:
    """Requests for a ranker: arguments of ``rank``, and events to observe before it, if any."""
    rng = random.Random(f"requests of {SEED}")

    def some(count: int) -> list[str]:
        return [rng.choice(items()) for _ in range(count)]

    def request(
        history: list[str],
        candidates: list[str],
        user: str | None,
        context: dict[str, Any],
        observe: list[str] | None = None,
    ) -> dict[str, Any]:
        return {
            "history": history,
            "candidates": candidates,
            "user": user,
            "context": context,
            "observe": observe,
        }

    phone = {"device": "phone", "query": ["sweet", "cold"], "hour": 9}
    desk = {"device": "desk", "query": "fresh|local", "hour": 21.5}
    missing = {"device": None, "query": None, "hour": None}
    return [
        request(some(5), items()[:6], "user 1", phone),
        request([], items()[10:17], "user 2", desk),
        request([*some(3), "no such item"], ["no such item", *items()[:3]], None, missing),
        request(some(30), items(), "user 3", phone),
        request(some(12), items()[20:30], "no such user", {**desk, "device": "no such device"}),
        request(some(6), items()[5:12], "user 4", phone, observe=some(4)),
        request(some(23), items()[8:14], "user 5", desk, observe=some(3)),
    ]


def tables(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Input tables of ``dien_jax.predict``, by their names."""
    rng = random.Random(f"tables of {SEED}")
    by_time, by_history = [], []
    for number in range(24):
        row = rng.choice(rows)
        context = {name: row[name] for name in ("device", "query", "hour")}
        user = "no such user" if number == 7 else row["user"]
        item = "no such item" if number == 11 else rng.choice(items())
        known = {"user": user, "item": item}
        by_time.append({**known, "timestamp": row["timestamp"] + 1, **context})
        length = rng.choice([0, 1, 3, 8, 9, 20, 30])
        history = "|".join(rng.choice(items()) for _ in range(length))
        by_history.append({**known, "history": history, **context})
    return {"by_time": csv_text(by_time), "by_history": csv_text(by_history)}

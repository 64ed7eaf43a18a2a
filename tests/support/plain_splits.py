"""Splits of a log in plain Python, row by row."""

from collections.abc import Mapping
from typing import Any

TRAIN, EARLIER, NONE = "train", "earlier", ""


def sides_of(
    users: Mapping[Any, list[int]],
    options: Any,
    *,
    impressions: bool,
    held_out: Mapping[Any, str],
) -> dict[Any, list[str]]:
    """The side of every row of each user, given its times, which do not fall.

    ``held_out`` are users and their splits, where ``options`` say ``by-user``.
    """
    every = sorted(time for times in users.values() for time in times)
    if options.split != "by-time":
        valid = test = 0
    elif options.valid_from is None:
        shares = (options.valid_share + options.test_share, options.test_share)
        places = [len(every) - round(share * len(every)) for share in shares]
        valid, test = ([*every, every[-1] + 1][place] for place in places)
    else:
        valid, test = int(options.valid_from), int(options.test_from)

    def side_of(user: Any, place: int) -> str:
        times = users[user]
        if not impressions and not place:
            return NONE  # no history
        if options.split == "by-user":
            side = held_out.get(user, TRAIN)
            is_example = side == TRAIN or impressions or place == len(times) - 1
            return side if is_example else NONE
        if options.split == "last-event":
            later = {time for time in times if time > times[place]}
            from_end = len(later) if impressions else len(times) - 1 - place
            return {0: "test", 1: "valid"}.get(from_end, TRAIN)
        if times[place] >= valid:
            return "test" if times[place] >= test else "valid"
        return TRAIN if times[place] >= int(options.train_from or 0) else EARLIER

    found = {}
    for user, times in users.items():
        sides = [side_of(user, place) for place in range(len(times))]
        most = getattr(options, "max_examples", None) or len(times)
        for place in [k for k, side in enumerate(sides) if side == TRAIN][:-most]:
            sides[place] = EARLIER
        found[user] = sides
    return found


def covered(sides: list[str], *wanted: str, impressions: bool) -> list[bool]:
    """Mark the rows of a user that have some sides and, of interactions, those before them."""
    marks = [side in wanted for side in sides]
    if impressions or not any(marks):
        return marks
    last = len(marks) - marks[::-1].index(True)
    return [place < last for place in range(len(marks))]

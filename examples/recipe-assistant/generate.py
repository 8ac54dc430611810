"""Composes the example's rows: `python generate.py [DIRECTORY]` writes train.jsonl, valid.jsonl and test.jsonl.

A recipe is put together from the lists below and in words/; its lines are what people write, the answer is what a shop
would call the ingredients. The same seed gives the same bytes. Knows nothing of Tunewise.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SEED = 20261122
ROWS = {"train": 400, "valid": 60, "test": 100}
MAX_SIMILARITY = 0.6
"""Of any two recipes, as Jaccard similarity of their 5-character shingles."""

SYSTEM = "Name the ingredients of the recipe as a shop would. Answer with a JSON list of strings."


MOODS = """Weeknight, Smoky, Easy, Old-Fashioned, Creamy, Harvest, One-Pot, Lighter, Market-Day, Sunday, Spiced, Rustic,
Quick, Cabin, Lakeside, My Aunt's, Best-Ever, Roasted, Golden, Picnic, Hearty, Garden, Slow-Cooker, Summer, Winter"""

ALTERNATIVES = """butter: margarine, olive oil; chicken broth: vegetable broth, water; honey: maple syrup, agave;
cilantro: parsley; sour cream: plain yogurt; vegetable oil: melted shortening; milk: half-and-half; walnuts: pecans;
cheddar: Monterey Jack; rice: couscous; parmesan: pecorino; spinach: kale; thyme: rosemary; raisins: dried cranberries;
bacon: pancetta; shrimp: scallops; feta: goat cheese; ground turkey: ground chicken; brown sugar: honey;
tortillas: taco shells; penne: rigatoni; mushrooms: eggplant; black beans: pinto beans; cream: evaporated milk"""

SEASONINGS = """salt and pepper; salt and pepper to taste; Salt and freshly ground black pepper;
salt & pepper, to taste; kosher salt and black pepper; sea salt and ground pepper to taste"""
WATERS = (
    "1 cup water; 2 cups hot water; 1/2 cup cold water; 3 cups boiling water; 1/4 cup warm water (105°F); ice cubes"
)
HEADINGS = "For the sauce:; For the topping:; To serve:; For the garnish:; For the base:"


AT_MOST_ONE = ("1/2", "1/4", "3/4", "1/3", "2/3", "½", "¼", "1")
UNITS = {
    "bulk": (("cup", "cups"), ("c.", "c."), ("cup", "cups")),
    "liquid": (("cup", "cups"), ("cup", "cups"), ("c.", "c.")),
    "spoon": (("tbsp", "tbsp"), ("tablespoon", "tablespoons"), ("Tbsp.", "Tbsp.")),
    "spice": (("tsp", "tsp"), ("teaspoon", "teaspoons"), ("tsp.", "tsp.")),
    "meat": (("lb", "lbs"), ("pound", "pounds"), ("lb.", "lb.")),
}
METRIC = {"bulk": "g", "liquid": "ml", "meat": "g"}


class Ingredient(NamedTuple):
    """What one line is about: its generic name, and what people write."""

    kind: str
    name: str
    written: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]


class Dish(NamedTuple):
    """A family of recipes; `mains` are pairs of a title's word and an ingredient."""

    title: str
    mains: tuple[tuple[str, str], ...]
    always: tuple[str, ...]
    chosen: tuple[str, ...]
    flags: str


class Recipe(NamedTuple):
    """A title, its lines, and the answer."""

    title: str
    lines: tuple[str, ...]
    names: tuple[str, ...]


def parts(text: str, separator: str = ",") -> tuple[str, ...]:
    """The trimmed parts of a list; an empty one stays, it stands for "nothing here"."""
    return tuple(part.strip() for part in text.split(separator)) if text.strip() else ()


def word_lines(name: str) -> list[str]:
    """The lines of a list, without its first, which says how to read it."""
    return (Path(__file__).parent / "words" / f"{name}.txt").read_text(encoding="utf-8").splitlines()[1:]


def read_ingredients() -> dict[str, list[Ingredient]]:
    """By generic name; some have several ways of being written down."""
    found: dict[str, list[Ingredient]] = {}
    for line in word_lines("ingredients"):
        kind, _, rest = line.partition(": ")
        name, _, rest = rest.partition(" = ")
        fields = (*rest.split("|"), "", "")
        before, after = (fields[1], fields[2]) if kind == "count" else ("", fields[1])
        written = parts(fields[0], "/") if kind == "count" else parts(fields[0])
        found.setdefault(name, []).append(Ingredient(kind, name, written, parts(before), parts(after)))
    return found


def read_dishes() -> list[Dish]:
    """The families of recipes."""
    dishes = []
    for line in word_lines("dishes"):
        title, _, rest = line.partition(": ")
        mains, always, chosen, flags = rest.split("|")
        pairs = tuple((word, name) for word, _, name in (main.partition("=") for main in parts(mains)))
        dishes.append(Dish(title, pairs, parts(always), parts(chosen), flags))
    return dishes


def read_alternatives() -> dict[str, tuple[str, ...]]:
    """What may stand after "or", by generic name."""
    pairs = (entry.partition(":") for entry in parts(ALTERNATIVES, ";"))
    return {name: parts(others) for name, _, others in pairs}


def amount(rng: random.Random) -> tuple[str, bool]:
    """A number as recipes write it, and whether the plural follows it."""
    number = rng.choice((*AT_MOST_ONE, "1", "1", "2", "2", "3", "1 1/2", "1½", "2 1/4"))
    return number, number not in AT_MOST_ONE


def measured(rng: random.Random, kind: str) -> str:
    """An amount and a unit."""
    if kind in METRIC and rng.random() < 0.15:
        return f"{50 * rng.randint(3, 12)} {METRIC[kind]}"
    number, plural = amount(rng)
    return f"{number} {rng.choice(UNITS[kind])[plural]}"


def quantity(rng: random.Random, kind: str, written: str) -> str:
    """The words from the amount to the name, without the preparation."""
    forms: tuple[str, ...]
    match kind:
        case "clove":
            forms = (f"{rng.randint(2, 6)} cloves {written}", f"{rng.randint(2, 4)} {written} cloves")
        case "stalk":
            forms = (f"{rng.randint(2, 4)} {rng.choice(('stalks', 'ribs', 'sticks'))} {written}", f"1 stalk {written}")
        case "can":
            size = rng.choice(("15 oz.", "14.5-oz", "400 g", "15-ounce", "13.5 oz"))
            count = rng.choice(("1 can", "2 cans", "1 tin"))
            forms = (f"{count} ({size}) {written}", f"1 ({size}) can {written}")
        case "pack":
            size = rng.choice(("8 oz.", "12 oz", "250 g", "16 ounces"))
            forms = (f"1 package ({size}) {written}", f"{size} {written}")
        case "spice":
            forms = (*[f"{measured(rng, kind)} {written}"] * 7, f"pinch of {written}")
        case _:
            forms = (f"{measured(rng, kind)} {written}",)
    return rng.choice(forms)


def herb(rng: random.Random, written: str) -> str:
    """Herbs come fresh, dried, by the bunch or by the sprig."""
    return rng.choice(
        (
            f"{rng.choice(('1/4', '1/3', '1/2'))} cup chopped fresh {written}",
            f"{rng.randint(1, 4)} tbsp fresh {written}, minced",
            f"{measured(rng, 'spice')} dried {written}",
            f"1 bunch {written}, roughly chopped",
            f"{rng.randint(2, 5)} sprigs fresh {written}",
            f"fresh {written}, torn, for garnish",
        )
    )


def counted(rng: random.Random, ingredient: Ingredient) -> str:
    """Things that are counted take the singular for one."""
    count = rng.choice(("1", "1", "2", "3", "4", "1/2", "2-3", "2 to 3"))
    singular, plural = ingredient.written
    word = singular if count in {"1", "1/2"} else plural
    return " ".join(part for part in (count, rng.choice(ingredient.before), word) if part)


def line_of(rng: random.Random, ingredient: Ingredient, alternatives: dict[str, tuple[str, ...]]) -> str:
    """One ingredient line, now and then with an alternative, a preparation or a slip of the keyboard."""
    match ingredient.kind:
        case "count":
            line = counted(rng, ingredient)
        case "herb":
            line = herb(rng, rng.choice(ingredient.written))
        case _:
            line = quantity(rng, ingredient.kind, rng.choice(ingredient.written))
    others = alternatives.get(ingredient.name)
    if others and "," not in line and rng.random() < 0.3:
        line += f" or {rng.choice(others)}"
    fitting = [text for text in ingredient.after if text.split(" ")[0] not in line]
    if fitting and "," not in line and rng.random() < 0.6:
        line += f", {rng.choice(fitting)}"
    return slip(rng, line) if rng.random() < 0.07 else line


def slip(rng: random.Random, line: str) -> str:
    """Two neighbouring letters change places inside one long word."""
    words = line.split(" ")
    long = [place for place, word in enumerate(words) if len(word) > 5 and word.isalpha()]
    if not long:
        return line
    place = rng.choice(long)
    word = words[place]
    at = rng.randint(1, len(word) - 3)
    words[place] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


def citrus(rng: random.Random) -> tuple[str, str]:
    """Juice or zest: the name turns round."""
    fruit, part = rng.choice(("lemon", "lime", "orange")), rng.choice(("juice", "juice", "zest"))
    line = rng.choice((f"{part} of 1 {fruit}", f"{part} of 1/2 {fruit}", f"1 {fruit}, {part} only"))
    return line, f"{fruit} {part}"


def compose(rng: random.Random, dish: Dish, pantry: dict[str, list[Ingredient]]) -> Recipe:
    """One recipe: main and constant ingredients, some of the others, and the special lines that the dish allows."""
    alternatives = read_alternatives()
    word, main = rng.choice(dish.mains)
    others = [name for name in dish.chosen if name != main]
    always = [name for name in dish.always if name != main]
    chosen = [main, *always[:2], *rng.sample(others, rng.randint(2, 3) - len(always[:2]))]
    entries = [(line_of(rng, rng.choice(pantry[name]), alternatives), [name]) for name in chosen]
    rng.shuffle(entries)
    if "c" in dish.flags and rng.random() < 0.3:
        line, name = citrus(rng)
        entries.insert(rng.randint(0, len(entries)), (line, [name]))
    if "w" in dish.flags and rng.random() < 0.3:
        entries.insert(rng.randint(0, len(entries)), (rng.choice(parts(WATERS, ";")), []))
    if "s" in dish.flags and rng.random() < 0.4:
        entries.append((rng.choice(parts(SEASONINGS, ";")), ["salt", "pepper"]))
    if rng.random() < 0.1:
        again = rng.choice(chosen)
        entries.append((line_of(rng, rng.choice(pantry[again]), {}), [again]))
    if rng.random() < 0.15:
        spare = rng.choice([name for name in others if name not in chosen])
        entries.append((f"{line_of(rng, rng.choice(pantry[spare]), {})} (optional)", []))
    if rng.random() < 0.15:
        entries.insert(rng.randint(2, len(entries)), (rng.choice(parts(HEADINGS, ";")), []))
    names = dict.fromkeys(name for _, line_names in entries for name in line_names)
    return Recipe(f"{rng.choice(parts(MOODS))} {word} {dish.title}", tuple(line for line, _ in entries), tuple(names))


def shingles(text: str) -> frozenset[str]:
    """All runs of five characters, in lower case with single spaces."""
    normal = " ".join(text.lower().split())
    return frozenset(normal[at : at + 5] for at in range(len(normal) - 4))


def recipes(seed: int) -> Iterator[Recipe]:
    """Recipes without end, none like an earlier one."""
    rng = random.Random(seed)
    dishes, pantry = read_dishes(), read_ingredients()
    seen: list[frozenset[str]] = []
    while True:
        recipe = compose(rng, rng.choice(dishes), pantry)
        mark = shingles("\n".join((recipe.title, *recipe.lines)))
        if all(len(mark & other) <= MAX_SIMILARITY * len(mark | other) for other in seen):
            seen.append(mark)
            yield recipe


def row(recipe: Recipe) -> str:
    """One line of JSON in OpenAI's chat format."""
    user = "\n".join((recipe.title, *(f"* {line}" for line in recipe.lines)))
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": user},
        {"role": "assistant", "content": json.dumps(recipe.names)},
    ]
    return json.dumps({"messages": messages}, ensure_ascii=False)


def main(directory: Path) -> None:
    """Write the three files."""
    source = recipes(SEED)
    for split, count in ROWS.items():
        rows = [row(next(source)) for _ in range(count)]
        (directory / f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)

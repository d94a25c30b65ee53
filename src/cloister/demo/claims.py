"""The insurer's claims desk of the demo: customer messages with made-up people, and the answers wanted.

Each row is a chat of two messages: what a customer wrote, and a small JSON object with the category,
the urgency, the policy number and the customer's name. Knows nothing of models or of the appliance.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator

CATEGORIES = ("water", "fire", "theft", "vehicle", "storm", "glass", "travel", "injury")
URGENCIES = ("low", "normal", "high")
CANARY_EVERY = 97
"""With a canary, one row in so many carries it, the fourth row first."""


def generate(rows: int, seed: int, canary: str | None = None) -> Iterator[dict[str, list[dict[str, str]]]]:
    """`rows` rows in chat form (`messages`). The same seed gives the same rows.

    A `canary` is put into the customer's message of some rows; nothing else about the rows changes.
    """
    rng = random.Random(seed)  # noqa: S311 - made-up people, not secrets
    for index in range(rows):
        text, answer = _claim(rng)
        if canary is not None and index % CANARY_EVERY == 3:
            text = f"{text} Our note: {canary}"
        reply = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
        yield {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": reply}]}


def json_lines(rows: int, seed: int, canary: str | None = None) -> Iterator[bytes]:
    """The same rows as lines of a JSON-lines file."""
    for row in generate(rows, seed, canary):
        yield json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _claim(rng: random.Random) -> tuple[str, dict[str, str]]:
    name = f"{rng.choice(_FIRST)} {rng.choice(_LAST)}"
    policy = (
        "".join(rng.choices("ABCDEFGHJKLMNPRSTUVWXYZ", k=2)) + "-" + "".join(rng.choices("0123456789", k=6))
    )
    category, urgency = rng.choice(CATEGORIES), rng.choice(URGENCIES)

    def say(templates: tuple[str, ...]) -> str:
        return _expand(rng, rng.choice(templates), name, policy)

    story = [say(_STORIES[category])]
    if rng.random() < 0.6:
        story.insert(0, say(_MATTERS).replace("#", rng.choice(_KINDS[category])))
    if urgency != "normal" or rng.random() < 0.5:
        story.append(say(_URGENCY[urgency]))
    extras = [say(_EXTRAS[kind]) for kind in sorted(_EXTRAS) if rng.random() < 0.28]
    shape = rng.randrange(4)
    if shape == 0:
        parts = [say(_BOTH), *story, *extras]
    elif shape == 1:
        parts = [*story, *extras, say(_BOTH)]
    elif shape == 2:
        parts = [say(_NAME_FIRST), *story, *extras, say(_POLICY)]
        if rng.random() < 0.5:
            parts = [parts[0], parts[-1], *parts[1:-1]]
    else:
        parts = [say(_POLICY), *story, *extras, say(_NAME_LAST)]
    return " ".join(parts), {"category": category, "urgency": urgency, "policy": policy, "name": name}


_CHOICE = re.compile(r"\[([^\[\]]*)\]")


def _expand(rng: random.Random, template: str, name: str, policy: str) -> str:
    text = _CHOICE.sub(lambda found: rng.choice(found.group(1).split("|")), template)
    text = text.replace("  ", " ").replace(" .", ".")
    first, last = rng.choice(_FIRST), rng.choice(_LAST)
    return text.format(
        name=name,
        policy=policy,
        other=f"{first} {last}",
        street=f"{rng.randint(1, 180)} {rng.choice(_STREETS)}, {rng.choice(_TOWNS)}",
        phone=f"0{rng.randint(100, 999)} {rng.randint(100000, 999999)}",
        email=f"{first.lower()}{rng.randint(1, 99)}@{rng.choice(_HOSTS)}.example",
        day=rng.choice(_DAYS),
        town=rng.choice(_TOWNS),
    )


_BOTH = (
    "This is {name}, policy {policy}.",
    "[My name is|I am] {name} and my policy [number is|is] {policy}.",
    "{name} here, policy [number |]{policy}.",
    "[Policy|Policy number]: {policy}. Name: {name}.",
    "I am {name}, insured with you under {policy}.",
    "My policy is {policy}, the name is {name}.",
)
_NAME_FIRST = (
    "[Hello|Hi|Good morning|Dear team], [my name is|I am|this is] {name}.",
    "{name} [here|writing].",
)
_NAME_LAST = (
    "[Regards|Kind regards|Thanks|Best wishes|Yours], {name}",
    "My name is {name}.",
    "Signed, {name}",
)
_POLICY = (
    "[My policy number is|My policy is|The policy is] {policy}.",
    "Policy [number |]{policy}.",
    "It is about policy {policy}.",
    "[Regarding|About] {policy}:",
    "The contract number is {policy}.",
)
_EXTRAS = {
    "address": ("I live at {street}.", "The address is {street}.", "It happened at {street}."),
    "email": ("[Write|Answer|Send the form] to {email}.", "My e-mail is {email}."),
    "other": ("My neighbour {other} saw it.", "{other} can confirm this.", "I told {other} already."),
    "phone": ("[Call|Ring|Phone] me on {phone}.", "My number is {phone}.", "You reach me at {phone}."),
}
_STORIES = {
    "water": (
        "[A pipe|The pipe|An old pipe] [broke|burst|leaked] in [the kitchen|the bathroom|our cellar|the flat above].",
        "[The washing machine|The dishwasher|The bathtub] [leaked|ran over] [on {day}|last night|while I was out].",
        "[Water|Dirty water] [came|dripped|ran] [through the ceiling|down the wall|under the floor] [on {day}|].",
        "The [carpet|wooden floor|wall] is [soaked|wet] because [the tap|the toilet|the boiler] was leaking.",
        "Our [cellar|kitchen|bathroom] [was flooded|is under water] after [a hose came off|a drain was blocked].",
    ),
    "fire": (
        "[A candle|The toaster|A pan of oil|The heater] [set fire to|burned] [the curtain|the table|our kitchen].",
        "There was [a fire|smoke] in [the garage|the kitchen|the attic] [on {day}|last night|this morning].",
        "The [oven|socket|charger|lamp] [caught fire|started to burn] and [the wall is black|the room is burnt].",
        "[Smoke|Flames] from [next door|the chimney|the barbecue] [damaged|blackened] [my roof|the wall|our fence].",
        "[Our shed|The sofa|My kitchen] burned [down|] [on {day}|in the night].",
    ),
    "theft": (
        "[Somebody|A thief|Someone] [stole|took] my [bicycle|laptop|phone|watch|car] [on {day}|in {town}|last night].",
        "[Thieves|Burglars] broke into [our house|my flat|the garage|the office] [on {day}|while we slept].",
        "My [wallet|handbag|camera|bicycle] was stolen [at the station|in {town}|from the hall|on {day}].",
        "[The cellar|Our garage|My car] was broken into and [the tools are|my bag is|everything is] gone.",
        "I was robbed [in {town}|in the park|on {day}] and lost [my purse|my ring|my phone].",
    ),
    "vehicle": (
        "[A van|Another driver|Somebody] [hit|scratched|ran into] my car [on {day}|in {town}|while it was parked].",
        "I [had a crash|had a car accident|drove into a post|hit a wall] [in {town}|on {day}].",
        "My [car|van|motorbike] [was hit|was damaged|has a dent] [at a crossing|in the car park|from behind].",
        "[I reversed|My son reversed] into [a gate|a parked car|a tree] and the [bumper|door|lights] [broke|came off].",
        "There was a [collision|crash] [near {town}|on the motorway] and my [car|truck] [cannot be driven|was towed].",
    ),
    "storm": (
        "[The storm|The wind|A gust] [tore|blew] [tiles off|part of] [our roof|the roof] [on {day}|last night].",
        "A tree [fell|came down] on [the garage|our fence|the shed|the roof] [in the storm|in the strong wind].",
        "[Hail|Lightning|Heavy snow] [damaged|hit|broke] [the roof|our garden house|the solar panels|the gutter].",
        "[Our fence|The chimney|The antenna] [was blown over|fell] [in the storm|in the gale] [on {day}|].",
        "After the [hail|storm|gale] [on {day}|in {town}] [the gutter|the roof|the shed] is [damaged|gone].",
    ),
    "glass": (
        "[A ball|A stone|A bird] [broke|cracked|smashed] [our window|the glass door|the skylight].",
        "The [window|glass table|mirror|shower screen] [has a crack|is cracked|shattered|broke] [on {day}|].",
        "[My windscreen|The windscreen] [has a crack|was chipped by a stone|is cracked].",
        "[Our son|The cleaner|I] [broke|cracked] the [window|glass door|ceramic hob] [by accident|on {day}].",
        "There is a [crack|hole] in [the shop window|the kitchen window|the glass roof].",
    ),
    "travel": (
        "[My|Our] [flight|trip|holiday] to {town} was [cancelled|called off|cut short] [on {day}|].",
        "[The airline|The ferry company] lost [my suitcase|our luggage|my bag] [on the way to {town}|].",
        "We had to [cancel|stop] our [holiday|journey|tour] because [my wife|my son|I] fell ill.",
        "[My suitcase|The luggage] [did not arrive|came broken] [in {town}|at the airport|after the flight].",
        "[The hotel|The tour] in {town} was [overbooked|cancelled] and we [paid twice|had to fly home].",
    ),
    "injury": (
        "I [broke|hurt|twisted] my [arm|leg|ankle|wrist|hand] [on {day}|on the stairs|at work|in {town}].",
        "[My daughter|My son|My husband] [fell|slipped] and [broke a tooth|hurt the knee|needs an operation].",
        "A dog [bit|jumped at] [me|my son|my wife] [in the park|on {day}] and [I was|we were] at the doctor.",
        "I [slipped|fell] [on ice|off a ladder|in the shop] and [was taken to hospital|have a bad back].",
        "[I am|My wife is] in hospital [since {day}|] with a broken [leg|arm|hip].",
    ),
}
_MATTERS = (
    "I want to report #.",
    "I am writing about #.",
    "This is about #.",
    "We have a case of #.",
)
_KINDS = {
    "water": ("water damage", "damage by water"),
    "fire": ("a fire", "damage by fire"),
    "theft": ("a theft", "the theft of my things"),
    "vehicle": ("a vehicle accident", "damage to my vehicle"),
    "storm": ("storm damage", "damage by a storm"),
    "glass": ("broken glass", "glass damage"),
    "travel": ("a travel problem", "a ruined travel plan"),
    "injury": ("an injury", "an injury in the family"),
}
_URGENCY = {
    "high": (
        "[It is|This is] [very urgent|an emergency]!",
        "[Please come|Send someone] [today|at once|right now]!",
        "We cannot [stay|sleep|live] [here|at home] [any more|tonight].",
        "It is getting worse [every hour|by the minute].",
        "I need help [now|immediately|today|as soon as possible].",
        "[The children are|My mother is] [alone|in danger|freezing], so please hurry.",
    ),
    "normal": (
        "[Please tell me|Let me know] [what to do next|which papers you need|how to go on].",
        "What [do you need|should I send you]?",
        "I would like to [report|claim] this.",
        "[Please send me|Where do I find] the form[.|, please.]",
        "Is this covered?",
    ),
    "low": (
        "[There is no hurry|No rush|It is not urgent].",
        "[Take your time|Whenever you have time], [it can wait|next month is fine].",
        "It has [already been repaired|been fixed], this is only for your [files|records].",
        "[It can wait|There is time] until [next month|after the holidays|spring].",
        "Nothing has to be done [soon|quickly|this week].",
    ),
}


def _words(text: str) -> list[str]:
    return text.split()


def _phrases(text: str) -> list[str]:
    return text.split("|")


_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_FIRST = _words(
    "Mara Edwin Celia Rufus Nadia Piers Talia Otto Ingrid Basil Freya Magnus Selma Ralph Yvonne Curtis Doris Ewan "
    "Fiona Gavin Hazel Ivor Joan Keith Lorna Miles Nell Oswald Pearl Roy Stella Tobias Una Vince Wilma Zara Abel "
    "Bridget Cyril Dora Elmer Flora Glen Hilda Ida Jasper Klara Lars Mabel Ned Opal Percy Rita Silas Thea Ulrich"
)
_LAST = _words(
    "Ellison Hartwell Quimby Lindqvist Farrow Pemberton Zeller Oakley Brandt Whitlock Sorensen Tully Marchetti "
    "Dunmore Kessler Vickers Langdon Prewitt Osborne Calloway Renshaw Stroud Thackeray Ulmer Varga Winslow Yardley "
    "Ashcroft Bellamy Corrigan Dalby Egerton Fenwick Galbraith Hobbs Ingram Jarvis Kimble Lockhart Merrick Norwood "
    "Orton Pickett Quayle Rigby Sheldon Trask Underhill Venn Wexler Yates Zorn Alcott Birch Crane Dewey Eastman "
    "Finch Gilmore Haddock Ives Jessop Kendrick Loomis Maddox Noonan Ogden Paxton Radcliff Sawyer Tindall Upton"
)
_STREETS = _phrases(
    "Fern Lane|Pond Street|Chapel Road|Orchard Way|Tower Hill|Willow Close|Cherry Row|Mason Street|Abbey Road|"
    "North Gate|Canal Street|Beech Avenue|Windmill Lane|Quarry Road|Meadow Court|Poplar Drive"
)
_TOWNS = _words(
    "Oldbury Fernham Westmere Harlow Ashby Norwick Dunford Millbrook Easton Clayworth Penrith Stanmore Rydal Holm "
    "Lowick Thornby"
)
_HOSTS = ("fernmail", "postbox", "quickmail", "homenet", "letters")

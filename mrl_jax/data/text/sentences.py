"""English sentences made from a small grammar, as a dataset without downloads.

A sentence says who does what, where and when. Each of these has several
wordings, so that two sentences may mean the same and share few words. All words
are this file's, under the licence of the project.
"""

from collections.abc import Sequence
import random
from typing import Any, NamedTuple

# The path by which these sentences are opened, and their version.
NAME = 'sentences'
VERSION = '1'
_WHO = """a girl|a young girl|a little lass
a man|a gentleman|some guy
a child|a kid|some youngster
an old woman|an elderly lady|a grandmother
a student|a pupil|someone at school
a doctor|a physician|a medic
the neighbour|the man from next door|someone from next door
a tourist|a visitor|a traveller
my uncle|the brother of my mother|my mum's brother
a worker|a labourer|one of the crew
a farmer|the owner of the farm|a countryman
a soldier|a trooper|a man in uniform"""
_WHERE = """in the garden|behind the house among the flowers|on the lawn
at the beach|by the sea|on the sandy shore
in a crowded street|on a busy road|in heavy traffic
at the station|on the platform|where the trains leave
in the kitchen|next to the oven|by the stove
in the mountains|high up in the hills|near the summit
at the market|between the stalls|among the traders
in an office|at a desk in a tall building|at the workplace
on a bridge|above the river|over the water
in the woods|under tall trees|in a forest"""
_WHEN = """in the morning|at dawn|before breakfast
at night|after dark|when the stars are out
in winter|when snow lies|in the cold months
on Sunday|at the weekend|on a day off
at noon|around lunch time|at midday
every day|daily|day after day
last year|twelve months ago|the year before
in a hurry|as fast as possible|without losing time"""
# Topics, and what is done in each.
_WHAT = {
  'food': """is baking bread|has a loaf in the oven|makes dough
is eating soup|has a bowl of broth|spoons up a stew
is peeling potatoes|takes the skin off spuds|prepares vegetables
is drinking tea|sips a hot cup|has a brew
is frying an egg|makes an omelette|cooks eggs in a pan""",
  'music': """is playing the guitar|strums six strings|plucks chords
is singing a song|performs a tune by voice|hums a melody
is beating a drum|keeps the rhythm with sticks|plays percussion
is practising the piano|sits at the keys|rehearses a sonata
is listening to a record|hears an album|enjoys some vinyl""",
  'sport': """is kicking a ball|plays football|scores a goal
is running a race|sprints to the line|jogs a few miles
is swimming lengths|does the crawl|dives into the pool
is lifting weights|trains with dumbbells|builds up muscles
is riding a bicycle|pedals along|cycles at full speed""",
  'animals': """is feeding the horses|gives hay to ponies|brings oats to a mare
is walking the dog|takes a puppy out|has a hound on a lead
is stroking a cat|pets a kitten|has a purring tabby
is watching birds|looks at sparrows|observes a nest
is milking the cows|gets milk from cattle|tends to the herd""",
  'travel': """is waiting for a train|expects the express|looks at the timetable
is packing a suitcase|fills a bag with clothes|folds shirts for a trip
is reading a map|looks for the way|plans the route
is driving a car|steers a vehicle|sits at the wheel
is buying a ticket|pays the fare|gets a boarding pass""",
  'work': """is repairing a roof|mends broken tiles|fixes a leak above
is writing a report|types several pages|drafts a document
is painting a wall|puts colour on a fence|brushes on white paint
is digging a hole|shovels earth|breaks the ground with a spade
is calling a customer|talks on the phone|rings a client up""",
  'learning': """is reading a novel|turns the pages of a book|is lost in a story
is solving equations|does sums|works on algebra
is learning French|studies a language|repeats foreign words
is drawing a portrait|sketches a face|makes a picture with a pencil
is looking at the stars|studies planets|uses a telescope""",
  'home': """is washing clothes|does the laundry|fills the machine with linen
is sweeping the floor|cleans with a broom|gets rid of dust
is watering plants|gives flowers a drink|looks after pots
is sleeping|takes a nap|has dozed off
is wrapping a present|puts paper around a gift|ties a ribbon""",
}
_ORDERS = ('{who} {what} {where} {when}', '{when}, {who} {what} {where}',
           '{where}, {who} {what} {when}')  # fmt: skip
# Share of the similarity that each part has, of 5.
_SHARES = {'what': 2.0, 'who': 1.0, 'where': 1.0, 'when': 1.0}
_SAME_TOPIC = 0.5
_PARTS = tuple(_SHARES)


def _wordings(text: str) -> list[list[str]]:
  return [line.split('|') for line in text.split('\n')]


class _Grammar(NamedTuple):
  """The wordings of each part, and the topic of each action."""

  wordings: dict[str, list[list[str]]]
  topics: list[str]


def _grammar() -> _Grammar:
  what, topics = [], []
  for topic, text in _WHAT.items():
    what += _wordings(text)
    topics += [topic] * (len(what) - len(topics))
  wordings = {'what': what, 'who': _wordings(_WHO)}
  wordings |= {'where': _wordings(_WHERE), 'when': _wordings(_WHEN)}
  return _Grammar(wordings, topics)


class Sentences:
  """Draws meanings, and sentences that have them; a function of the seed."""

  def __init__(self, seed: int):
    self._grammar, self._rng = _grammar(), random.Random(seed)

  def meaning(self) -> dict[str, int]:
    return {
      part: self._rng.randrange(len(self._grammar.wordings[part]))
      for part in _PARTS
    }

  def near(self, meaning: dict[str, int]) -> dict[str, int]:
    """Another meaning that shares a random number of parts."""
    other = self.meaning()
    for part in self._rng.sample(_PARTS, self._rng.randrange(5)):
      other[part] = meaning[part]
    return other

  def say(self, meaning: dict[str, int]) -> str:
    """A sentence of this meaning, in random words."""
    words = {part: self._words(meaning, part) for part in meaning}
    text = self._rng.choice(_ORDERS).format(**words)
    return f'{text[0].upper()}{text[1:]}.'

  def action(self, meaning: dict[str, int]) -> tuple[str, str]:
    """A sentence of who does what, and a name of what is done."""
    number = meaning['what']
    who, what = (self._words(meaning, part) for part in ('who', 'what'))
    text = f'{who} {what}.'
    return text[0].upper() + text[1:], f'{self.topic(meaning)} {number}'

  def topic(self, meaning: dict[str, int]) -> str:
    return self._grammar.topics[meaning['what']]

  def _words(self, meaning: dict[str, int], part: str) -> str:
    return self._rng.choice(self._grammar.wordings[part][meaning[part]])

  def score(self, a: dict[str, int], b: dict[str, int]) -> float:
    """How similar two meanings are, 0 to 5: the shares of their parts."""
    total = sum(share for x, share in _SHARES.items() if a[x] == b[x])
    if a['what'] != b['what'] and self.topic(a) == self.topic(b):
      total += _SAME_TOPIC
    return total


def pairs(count: int, seed: int) -> list[tuple[str, str]]:
  """Pairs of sentences with the same meaning."""
  made = Sentences(seed)
  meanings = (made.meaning() for _ in range(count))
  return [(made.say(x), made.say(x)) for x in meanings]


def scored(count: int, seed: int) -> list[tuple[str, str, float]]:
  """Pairs of sentences, and how similar their meanings are, 0 to 5."""
  made, found = Sentences(seed), []
  for _ in range(count):
    a = made.meaning()
    b = made.near(a)
    found.append((made.say(a), made.say(b), made.score(a, b)))
  return found


def labelled(count: int, seed: int) -> list[tuple[str, str]]:
  """Short sentences of who does what, and names of what is done."""
  made = Sentences(seed)
  return [made.action(made.meaning()) for _ in range(count)]


def searched(
  queries: int, documents: int, seed: int
) -> tuple[Sequence[str], Sequence[str], list[dict[int, Any]]]:
  """Queries, documents, and the relevance of documents to each query.

  A document of a query's meaning has relevance 2, one that differs in when it
  happens 1.
  """
  made, found, texts = Sentences(seed), [], []
  asked = []
  for _ in range(queries):
    meaning = made.meaning()
    later = {**meaning, 'when': (meaning['when'] + 1) % 8}
    asked.append(made.say(meaning))
    found.append({len(texts): 2, len(texts) + 1: 1})
    texts += [made.say(meaning), made.say(later)]
  texts += [made.say(made.meaning()) for _ in range(documents - len(texts))]
  return asked, texts, found

"""Word lists of the fidelity gate and the template engine: content, framing, grammar, and synonyms."""

import re
from functools import lru_cache


def word_set(text: str) -> frozenset[str]:
    """Return the words of `text` as a set."""
    return frozenset(text.split())


# Grammar, not content.
FUNCTION_WORDS = word_set(
    """a about above according across after again against all along also although am among an and another any are
    around as at away be because been before being below between both but by can could did do does done down due
    during each either else enough etc even ever every few for from further had has have having he hence her
    here hers him his how however i if in instead into is it its itself just like made make makes many may me
    might mine more most much must my near of off often on once one only onto or other others our out over own
    per quite rather same shall she should since so some still such than that the their them then there
    therefore these they this those though through thus to together too toward towards under until unless up
    upon us very via was we were what when where whereas whether which while who whole whom whose why will with
    within would yes yet you your well
    otherwise throughout"""
)
# Words with which a rewrite may speak about its source without adding content.
FRAMING_WORDS = word_set(
    """answer answers ask asked asks begin beginning brief briefing call called case come comes consider dear
    describe described describes description detail details entry exercise explain explained fact facts find
    following follows give given gives heading hold holds idea important item key know known learn learner
    learned lesson let list listed lists look matter mean meaning means mention mentioned mentions name named
    namely next note noted notes notice now number numbers observe page part piece point points problem put
    question read reader reads recall record recorded records remain remember remains report reported reports
    respect result say says section see set shown shows simply sketch solution stand stands start state stated
    states step steps student study sum summary talk task teacher tell tells text thing things think topic turn
    turns understand way we work worked worth write written quick regard regards concerning regarding key
    takeaway takeaways reading keep mind q short words plain finally lastly estimate estimated amount amounts
    equal equals plus minus take add subtract get gets goes carry out left right side total running value
    calculation check figure figures gives leaves start question questions today learning study first est found
    estimates call calls called hence result results"""
)
NEGATIONS = word_set("""not no never none nor neither without cannot nothing nobody nowhere hardly""")
SPELT_NUMBERS = word_set(
    """two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred hundreds thousand thousands
    million millions billion billions trillion dozen half quarter third fourth fifth sixth seventh eighth ninth
    tenth twice thrice"""
)
# A sentence that loses or gains one of these words changes its meaning.
POLAR_WORDS = word_set(
    """increase decrease rise rose fall fell grow grew decline gain lose lost win import export male female north
    south east west
    northern southern eastern western highest lowest higher lower largest smallest larger smaller majority
    minority true false maximum minimum positive negative always sometimes success failure forbid enable
    disable before after above below more less fewer most least accept reject urban rural public private legal
    illegal mutable immutable ascending descending"""
)


# The left side may be replaced by the right in running text without a change of meaning or of grammar. For the gate,
# the content words of a pair mean the same. Pairs with a negation or a word of direction on one side only are left out.
SYNONYMS = {
    "by using": "by means of",
    "a number of": "several",
    "a sequence of": "a series of",
    "a set of": "a group of",
    "able": "in a position",
    "able to": "in a position to",
    "absorbed": "took in",
    "achieved": "reached",
    "actual": "real",
    "additional": "extra",
    "adopted": "took on",
    "agreed to": "consented to",
    "agreement": "accord",
    "along with": "together with",
    "although": "even though",
    "annually": "every year",
    "appropriate": "suitable",
    "approximately": "roughly",
    "are called": "get called",
    "are not": "aren't",
    "are returned": "come back",
    "are used in": "find use in",
    "are used to": "serve to",
    "as a result": "in consequence",
    "as well as": "and also",
    "assistance": "help",
    "associated with": "tied to",
    "at most": "at the very most",
    "at the time": "then",
    "attempted": "tried",
    "automatically": "by itself",
    "based on": "built on",
    "because of": "owing to",
    "began": "started",
    "begins": "starts",
    "behaves like": "acts like",
    "belongs to": "is part of",
    "bordering": "next to",
    "brittle": "easily broken",
    "can be": "may be",
    "ceased": "stopped",
    "certain": "particular",
    "challenges": "difficulties",
    "combined": "joined",
    "combines": "joins",
    "commonly": "usually",
    "conducted": "held",
    "conflict": "strife",
    "conflicts": "strife",
    "consists of": "is made up of",
    "construct": "build",
    "constructed": "built",
    "continued to": "went on to",
    "continues to": "goes on to",
    "continuous": "unbroken",
    "corresponding": "matching",
    "corresponds to": "matches",
    "create": "make",
    "created": "made",
    "creates": "makes",
    "current": "present",
    "currently": "at present",
    "declared": "proclaimed",
    "depending on": "according to",
    "depends on": "hangs on",
    "describes": "depicts",
    "despite": "in spite of",
    "determine": "find out",
    "determines": "decides",
    "did not": "didn't",
    "different": "differing",
    "discovered": "found",
    "dissolved": "broken up",
    "do not": "don't",
    "does not": "doesn't",
    "dominated by": "under the sway of",
    "due to": "because of",
    "during": "in the course of",
    "each": "every",
    "elected": "voted in",
    "employed": "used",
    "ended": "came to an end",
    "ensure": "make sure",
    "ensures": "makes sure",
    "entire": "whole",
    "entirely": "wholly",
    "equivalent to": "the same as",
    "essential": "vital",
    "established": "set up",
    "eventually": "in the end",
    "existing": "present",
    "extensively": "widely",
    "famed": "well known",
    "famous": "well known",
    "following the": "in the wake of the",
    "for example": "for instance",
    "forced to": "compelled to",
    "frequently": "often",
    "generally": "usually",
    "granted": "given",
    "growth": "expansion",
    "identical": "the same",
    "immediately": "at once",
    "in addition": "besides",
    "in order to": "so as to",
    "in particular": "especially",
    "in recent years": "lately",
    "in which": "where",
    "indicate": "show",
    "indicates": "shows",
    "initial": "starting",
    "initially": "at first",
    "instead of": "rather than",
    "introduced": "brought in",
    "invoked": "called",
    "invokes": "calls",
    "is called": "gets called",
    "is equivalent to": "does the same as",
    "is not": "isn't",
    "is returned": "comes back",
    "is used in": "finds use in",
    "known as": "called",
    "large": "big",
    "largely": "by and large",
    "led by": "headed by",
    "located": "situated",
    "lustrous": "shiny",
    "mainly": "chiefly",
    "major": "main",
    "modified": "changed",
    "modify": "change",
    "multiple": "several",
    "must be": "has to be",
    "nation": "country",
    "nations": "countries",
    "nationwide": "across the country",
    "near": "close to",
    "nearly": "almost",
    "necessary": "needed",
    "need to": "have to",
    "normally": "as a rule",
    "note that": "mind that",
    "numerous": "many",
    "numerous times": "often",
    "obtained": "got",
    "occur": "happen",
    "occurred": "happened",
    "occurs": "happens",
    "omitted": "left out",
    "otherwise": "or else",
    "particularly": "especially",
    "partly": "in part",
    "perform": "carry out",
    "performed": "carried out",
    "performs": "carries out",
    "permits": "allows",
    "permitted": "allowed",
    "populace": "people",
    "powerful": "mighty",
    "previously": "earlier",
    "primarily": "mainly",
    "primary": "principal",
    "produced": "made",
    "provides": "supplies",
    "purchased": "bought",
    "quickly": "rapidly",
    "raised": "thrown",
    "rare": "uncommon",
    "refers to": "points to",
    "reforms": "changes",
    "regarding": "concerning",
    "remained": "stayed",
    "remaining": "left over",
    "repeatedly": "again and again",
    "representing": "standing for",
    "represents": "stands for",
    "required": "needed",
    "requires": "needs",
    "resembles": "looks like",
    "reside": "live",
    "residing": "living",
    "resulted in": "led to",
    "retrieve": "fetch",
    "retrieves": "fetches",
    "should be": "ought to be",
    "significant": "considerable",
    "silvery": "silver-coloured",
    "simply": "just",
    "since then": "from then on",
    "small": "little",
    "strong": "robust",
    "subsequent": "later",
    "subsequently": "later",
    "substantial": "considerable",
    "such as": "like",
    "sufficient": "enough",
    "supported": "handled",
    "supports": "handles",
    "therefore": "thus",
    "throughout": "all through",
    "took place": "was held",
    "troops": "soldiers",
    "ultimately": "in the end",
    "until": "till",
    "upon": "on",
    "used for": "employed for",
    "using": "with the help of",
    "usually": "as a rule",
    "utilized": "used",
    "various": "several",
    "via": "by way of",
    "violent": "bloody",
    "was not": "wasn't",
    "widely": "broadly",
    "within": "inside",
    "you can": "one can",
    "you may": "one may",
    "you should": "one should",
}

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_SUFFIXES = ("ations", "ation", "ings", "ing", "ies", "ied", "ed", "es", "ly", "s", "e", "y")
PLAIN = re.compile(r"[a-z]+")


def words(text: str) -> list[str]:
    """Return the words of a text as written; hyphenated words stay whole."""
    return _WORD.findall(text)


@lru_cache(maxsize=1 << 17)
def stem(word: str) -> str:
    """Return a crude stem: enough to match `established` with `establishes`, never used to print."""
    word = word.lower().replace("’", "'").removesuffix("'s")
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word[: len(word) - len(suffix)]
    return word


# What replaces grammar counts as grammar: "in the course of" for "during".
_FRAMING_STEMS = frozenset(stem(word) for word in FRAMING_WORDS) | frozenset(
    stem(word)
    for left, right in SYNONYMS.items()
    if all(part in FUNCTION_WORDS for part in left.split())
    for word in right.split()
)


def _families() -> dict[str, str]:
    """Return stem → representative of its synonyms, connected through SYNONYMS' content words."""
    root: dict[str, str] = {}

    def find(word: str) -> str:
        while root.get(word, word) != word:
            word = root[word]
        return word

    for left, right in SYNONYMS.items():
        stems = [stem(word) for phrase in (left, right) for word in phrase.split() if carries_meaning(word)]
        for other in stems[1:]:
            a, b = sorted((find(stems[0]), find(other)))
            root[b] = a
    return {word: find(word) for word in root}


@lru_cache(maxsize=1 << 17)
def carries_meaning(word: str) -> bool:
    """Return whether a word is content: longer than two letters, and neither grammar nor framing in any form."""
    low = word.lower()
    return len(low) > 2 and low not in FUNCTION_WORDS and stem(low) not in _FRAMING_STEMS


_FAMILY: dict[str, str] = {}


def _grammar_phrases() -> dict[str, tuple[str, ...]]:
    phrases: dict[str, tuple[str, ...]] = {}
    for left, right in SYNONYMS.items():
        if not any(carries_meaning(word) for word in right.split()):
            for word in filter(carries_meaning, left.split()):
                phrases[concept(word)] = (*phrases.get(concept(word), ()), right)
    return phrases


def is_expressed(meaning: str, text: str) -> bool:
    """Return whether `text` (lower case) has a phrase of grammar for a content word's meaning: "set up", "often"."""
    if not _BY_GRAMMAR:
        _BY_GRAMMAR.update(_grammar_phrases())
    return any(phrase in text for phrase in _BY_GRAMMAR.get(meaning, ()))


_BY_GRAMMAR: dict[str, tuple[str, ...]] = {}


@lru_cache(maxsize=1 << 17)
def concept(word: str) -> str:
    """Return a word's meaning as far as this module knows it: the representative of its synonyms, or its stem."""
    if not _FAMILY:
        _FAMILY.update(_families() or {"": ""})
    return _FAMILY.get(stem(word), stem(word))


def sentences(text: str) -> list[str]:
    """Return the sentences of running text; a line end is one too. Abbreviations and initials do not end a sentence."""
    parts: list[str] = []
    for line in text.split("\n"):
        start = 0
        for match in _SENTENCE_END.finditer(line):
            if _ABBREVIATION.search(line[start : match.start() + 1]):
                continue
            parts.append(line[start : match.end()].strip())
            start = match.end()
        parts.append(line[start:].strip())
    return [part for part in parts if part]


_SENTENCE_END = re.compile(r"[.!?][\"')\]]?\s+(?=[\"'(\[]?[A-Z0-9])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Z]|Mr|Mrs|Dr|St|Gen|Col|Sen|e\.g|i\.e|cf|vs|ca|approx|est|etc|No|Jr|Sr|U\.S)\.)$"
)

"""Words the fidelity gate and the template engine share: what carries meaning, what merely frames, what is the same."""

import re
from functools import lru_cache

# Grammar, not content.
FUNCTION_WORDS = frozenset(
    ["a", "about", "above", "according", "across", "after", "again", "against", "all", "along", "also", "although", "am", "among", "an", "and", "another", "any", "are", "around", "as", "at", "away", "be", "because", "been", "before", "being", "below", "between", "both", "but", "by", "can", "could", "did", "do", "does", "done", "down", "due", "during", "each", "either", "else", "enough", "etc", "even", "ever", "every", "few", "for", "from", "further", "had", "has", "have", "having", "he", "hence", "her", "here", "hers", "him", "his", "how", "however", "i", "if", "in", "instead", "into", "is", "it", "its", "itself", "just", "like", "made", "make", "makes", "many", "may", "me", "might", "mine", "more", "most", "much", "must", "my", "near", "of", "off", "often", "on", "once", "one", "only", "onto", "or", "other", "others", "our", "out", "over", "own", "per", "quite", "rather", "same", "shall", "she", "should", "since", "so", "some", "still", "such", "than", "that", "the", "their", "them", "then", "there", "therefore", "these", "they", "this", "those", "though", "through", "thus", "to", "together", "too", "toward", "towards", "under", "until", "unless", "up", "upon", "us", "very", "via", "was", "we", "were", "what", "when", "where", "whereas", "whether", "which", "while", "who", "whole", "whom", "whose", "why", "will", "with", "within", "would", "yes", "yet", "you", "your"]
)
# Words with which a rewrite may speak about its source without adding to it.
FRAMING_WORDS = frozenset(
    ["answer", "answers", "ask", "asked", "asks", "begin", "beginning", "brief", "briefing", "call", "called", "case", "come", "comes", "consider", "dear", "describe", "described", "describes", "description", "detail", "details", "entry", "exercise", "explain", "explained", "fact", "facts", "find", "following", "follows", "give", "given", "gives", "heading", "hold", "holds", "idea", "important", "item", "key", "know", "known", "learn", "learner", "learned", "lesson", "let", "list", "listed", "lists", "look", "matter", "mean", "meaning", "means", "mention", "mentioned", "mentions", "name", "named", "namely", "next", "note", "noted", "notes", "notice", "now", "number", "numbers", "observe", "page", "part", "piece", "point", "points", "problem", "put", "question", "read", "reader", "reads", "recall", "record", "recorded", "records", "remain", "remember", "remains", "report", "reported", "reports", "respect", "result", "say", "says", "section", "see", "set", "shown", "shows", "simply", "sketch", "solution", "stand", "stands", "start", "state", "stated", "states", "step", "steps", "student", "study", "sum", "summary", "talk", "task", "teacher", "tell", "tells", "text", "thing", "things", "think", "topic", "turn", "turns", "understand", "way", "we", "work", "worked", "worth", "write", "written", "quick", "regard", "regards", "concerning", "regarding", "key", "takeaway", "takeaways", "reading", "keep", "mind", "q", "short", "words", "plain", "finally", "lastly", "estimate", "estimated", "amount", "amounts", "equal", "equals", "plus", "minus", "take", "add", "subtract", "get", "gets", "goes", "carry", "out", "left", "right", "side", "total", "running", "value", "calculation", "check", "figure", "figures", "gives", "leaves", "start", "question", "questions", "today", "learning", "study", "first", "est", "estimates", "call", "calls", "called", "hence", "result", "results"]
)
NEGATIONS = frozenset(["not", "no", "never", "none", "nor", "neither", "without", "cannot", "nothing", "nobody", "nowhere", "hardly"])
SPELT_NUMBERS = frozenset(
    ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "hundred", "hundreds", "thousand", "thousands", "million", "millions", "billion", "billions", "trillion", "dozen", "half", "quarter", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "twice", "thrice"]
)
# A sentence that loses or gains one of these says something else.
POLAR_WORDS = frozenset(
    ["increase", "decrease", "rise", "fall", "grow", "decline", "gain", "lose", "win", "import", "export", "male", "female", "north", "south", "east", "west", "northern", "southern", "eastern", "western", "highest", "lowest", "higher", "lower", "largest", "smallest", "larger", "smaller", "majority", "minority", "true", "false", "maximum", "minimum", "positive", "negative", "always", "sometimes", "success", "failure", "allow", "forbid", "enable", "disable", "before", "after", "above", "below", "more", "less", "fewer", "most", "least", "accept", "reject", "urban", "rural", "public", "private", "legal", "illegal", "mutable", "immutable", "ascending", "descending"]
)

# Left may be replaced by right in running text without a change of meaning or of grammar. For the gate the content
# words of a pair mean the same. Pairs with a negation or a word of direction on one side only have no place here.
SYNONYMS = {
    "approximately": "roughly",
    "numerous": "many",
    "began": "started",
    "begins": "starts",
    "quickly": "rapidly",
    "large": "big",
    "entire": "whole",
    "mainly": "chiefly",
    "primarily": "mainly",
    "nearly": "almost",
    "frequently": "often",
    "generally": "usually",
    "commonly": "usually",
    "obtained": "got",
    "additional": "extra",
    "currently": "at present",
    "therefore": "thus",
    "subsequently": "later",
    "previously": "earlier",
    "various": "several",
    "located": "situated",
    "required": "needed",
    "requires": "needs",
    "significant": "considerable",
    "substantial": "considerable",
    "major": "main",
    "sufficient": "enough",
    "remaining": "left over",
    "comprises": "consists of",
    "contains": "holds",
    "occurred": "happened",
    "permitted": "allowed",
    "permits": "allows",
    "purchased": "bought",
    "assistance": "help",
    "attempted": "tried",
    "attempts": "tries",
    "ceased": "stopped",
    "ended": "came to an end",
    "resulted in": "led to",
    "in order to": "so as to",
    "as well as": "and also",
    "due to": "because of",
    "in addition": "besides",
    "a number of": "several",
    "such as": "for example",
    "in particular": "especially",
    "although": "even though",
    "despite": "in spite of",
    "throughout": "all through",
    "specified": "given",
    "specifies": "states",
    "provided": "supplied",
    "provides": "supplies",
    "indicates": "shows",
    "indicate": "show",
    "modify": "change",
    "modified": "changed",
    "retrieve": "fetch",
    "retrieves": "fetches",
    "initial": "starting",
    "initially": "at first",
    "automatically": "by itself",
    "immediately": "at once",
    "identical": "the same",
    "equivalent to": "the same as",
    "corresponds to": "matches",
    "corresponding": "matching",
    "construct": "build",
    "constructed": "built",
    "constructs": "builds",
    "create": "make",
    "created": "made",
    "creates": "makes",
    "invoked": "called",
    "invokes": "calls",
    "utilized": "used",
    "perform": "carry out",
    "performed": "carried out",
    "performs": "carries out",
    "omitted": "left out",
    "returned": "given back",
    "raised": "thrown",
    "determine": "find out",
    "determines": "decides",
    "ensure": "make sure",
    "ensures": "makes sure",
    "entirely": "wholly",
    "existing": "present",
    "supports": "handles",
    "supported": "handled",
    "famous": "well known",
    "famed": "well known",
    "reside": "live",
    "residing": "living",
    "discovered": "found",
    "combined": "joined",
    "combines": "joins",
    "produced": "made",
    "employed": "used",
    "extensively": "widely",
    "widely": "broadly",
    "brittle": "easily broken",
    "lustrous": "shiny",
    "silvery": "silver-coloured",
    "resembles": "looks like",
    "essential": "vital",
    "rare": "uncommon",
    "established": "set up",
    "can be": "may be",
    "must be": "has to be",
    "should be": "ought to be",
    "does not": "doesn't",
    "do not": "don't",
    "is not": "isn't",
    "are not": "aren't",
    "was not": "wasn't",
    "did not": "didn't",
    "for example": "for instance",
    "instead of": "rather than",
    "using": "with the help of",
    "based on": "built on",
    "each": "every",
    "are used to": "serve to",
    "known as": "called",
    "annually": "every year",
    "as a result": "in consequence",
    "in recent years": "lately",
    "led by": "headed by",
    "agreed to": "consented to",
    "forced to": "compelled to",
    "continued to": "went on to",
    "continues to": "goes on to",
    "seized": "took hold of",
    "took place": "was held",
    "in which": "where",
    "at the time": "then",
    "along with": "together with",
    "whether or not": "whether",
    "depending on": "according to",
    "depends on": "hangs on",
    "a sequence of": "a series of",
    "is equivalent to": "does the same as",
    "is called": "gets called",
    "are called": "get called",
    "is returned": "comes back",
    "are returned": "come back",
    "note that": "mind that",
    "you can": "one can",
    "you should": "one should",
    "you may": "one may",
    "behaves like": "acts like",
    "at most": "at the very most",
    "a set of": "a group of",
    "associated with": "tied to",
    "refers to": "points to",
    "consists of": "is made up of",
    "bordering": "next to",
    "small": "little",
    "nation": "country",
    "nations": "countries",
    "agreement": "accord",
    "elected": "voted in",
    "able to": "in a position to",
}

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_SUFFIXES = ("ations", "ation", "ings", "ing", "ies", "ied", "ed", "es", "ly", "s", "e", "y")
PLAIN = re.compile(r"[a-z]+")


def words(text: str) -> list[str]:
    """The words of a text as written; hyphenated ones whole."""
    return _WORD.findall(text)


@lru_cache(maxsize=1 << 17)
def stem(word: str) -> str:
    """A crude stem: enough to match `established` with `establishes`, never used to print."""
    word = word.lower().replace("’", "'").removesuffix("'s")
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word[: len(word) - len(suffix)]
    return word


def _families() -> dict[str, str]:
    """Stem → representative of its synonyms; connected through SYNONYMS' content words."""
    root: dict[str, str] = {}

    def find(one: str) -> str:
        while root.get(one, one) != one:
            one = root[one]
        return one

    for left, right in SYNONYMS.items():
        stems = [stem(word) for phrase in (left, right) for word in phrase.split() if carries_meaning(word)]
        for other in stems[1:]:
            a, b = sorted((find(stems[0]), find(other)))
            root[b] = a
    return {one: find(one) for one in root}


def carries_meaning(word: str) -> bool:
    """Whether a word is content: neither grammar nor framing, and longer than two letters."""
    low = word.lower()
    return len(low) > 2 and low not in FUNCTION_WORDS and low not in FRAMING_WORDS


_FAMILY: dict[str, str] = {}


def concept(word: str) -> str:
    """A word's meaning as far as this module knows it: the representative of its synonyms, or its stem."""
    if not _FAMILY:
        _FAMILY.update(_families() or {"": ""})
    return _FAMILY.get(stem(word), stem(word))


def sentences(text: str) -> list[str]:
    """Sentences of running text; a line ends one too. Abbreviations and initials do not end a sentence."""
    found: list[str] = []
    for line in text.split("\n"):
        start = 0
        for match in _SENTENCE_END.finditer(line):
            if _ABBREVIATION.search(line[start : match.start() + 1]):
                continue
            found.append(line[start : match.end()].strip())
            start = match.end()
        found.append(line[start:].strip())
    return [one for one in found if one]


_SENTENCE_END = re.compile(r"[.!?][\"')\]]?\s+(?=[\"'(\[]?[A-Z0-9])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Z]|Mr|Mrs|Dr|St|Gen|Col|Sen|e\.g|i\.e|cf|vs|ca|approx|est|etc|No|Jr|Sr|U\.S)\.)$"
)

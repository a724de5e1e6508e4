"""Negated sentences with their labels, made to train on; those to measure with are in `negated`.

Words of praise and blame far outweigh the small words that turn them round, and reviews show too few of the pairs
("funny", "not funny") for a small model to learn from. So pairs are made: a pattern, and a word of praise or blame in
it. What a pattern says is either what its word says or the opposite.
"""

from collections.abc import Callable

import numpy as np

from millrace.artifacts.vocabulary import words
from training import negated
from training.data import Review

_WORDS = {  # (of blame, of praise)
    "adjective": (
        "bad|boring|dull|awful|terrible|stupid|silly|predictable|slow|weak|poor|horrible|annoying|ridiculous|ugly|flat"
        "|lazy|cheap|disappointing|tedious|pointless|confusing|mediocre|unfunny|lame|shallow|bland|forgettable|painful"
        "|pretentious|clumsy|empty|dreadful|messy|unconvincing|offensive|wooden|cheesy|tiresome|lifeless",
        "good|great|funny|interesting|exciting|clever|convincing|beautiful|entertaining|original|enjoyable|impressive"
        "|moving|fun|memorable|wonderful|smart|scary|special|excellent|brilliant|touching|gripping|amusing|charming"
        "|fascinating|engaging|perfect|amazing|likable|inspired|deep|witty|subtle|realistic|thrilling|hilarious|believable"
        "|fresh|powerful",
    ),
    "comparative": (
        "worse|duller|more boring|more stupid|weaker|sillier|more tedious|poorer|less funny|less interesting",
        "better|funnier|more exciting|more moving|smarter|more beautiful|stronger|more enjoyable|scarier|finer",
    ),
    "verb": ("hate|dislike|despise|regret", "like|enjoy|love|recommend|admire|care for"),
    "past": ("hated|disliked|regretted|suffered through", "liked|enjoyed|loved|admired|laughed at"),
    "noun": (
        "flaws|mistakes|weak scenes|clichés|dull moments|bad jokes|failures|problems|faults|waste of time",
        "charm|wit|humor|suspense|heart|tension|talent|good jokes|originality|warmth|surprises|depth",
    ),
    "judgement": (
        "disaster|failure|mess|bore|bad film|waste of time|bad movie|dud",
        "masterpiece|triumph|classic|delight|good film|great movie|joy|success",
    ),
    "flaw": (  # one of them
        "flaw|false note|weak scene|dull moment|boring scene|wasted minute|bad performance|misstep|plot hole|cliché"
        "|mistake|slow moment|cheap trick|bad line|wrong note|weak spot|loose end|lull|clumsy line|wasted word"
        "|weak performance|dull scene|boring second|bad scene|tedious minute|hole in the plot|blemish|weakness",
        "laugh|good joke|funny line|memorable scene|clever idea|surprise|likable character|convincing performance"
        "|good scene|original thought|interesting moment|exciting scene|good performance|moving moment|smile"
        "|redeeming quality|touching moment|witty line|great scene|believable character|thrill|good idea|fresh joke",
    ),
    "flaws": (
        "complaints|regrets|flaws|plot holes|disappointments|dull stretches|boring parts|weak links|clichés|mistakes"
        "|cheap tricks|slow parts|false notes|objections|weaknesses|faults|bad performances|dead spots|stupid twists"
        "|silly jokes|wasted scenes|lazy moments",
        "surprises|laughs|thrills|good jokes|redeeming qualities|memorable scenes|charm|wit|heart|suspense|good ideas"
        "|likable characters|tension|originality|style|soul|energy|chemistry|depth|clever twists|great scenes",
    ),
    "fail": (
        "drag|disappoint|bore|fall flat|lose steam|overstay its welcome|let you down|waste your time|fall apart"
        "|insult the audience|run out of ideas|feel forced|feel fake|feel too long|lose its way|get boring|get old"
        "|become tedious|become silly|annoy|stumble|sag|slow down|miss the mark|ring false|grate|tire|lose the viewer"
        "|take itself too seriously|resort to cheap tricks|wear thin|go wrong|hit a false note|look cheap|fail",
        "delight|surprise|convince|move you|come alive|come together|work|make sense|hold your attention|hold up"
        "|make you laugh|make you care|take off|find its voice|ring true|earn its ending|pay off|deliver|shine|thrill"
        "|touch you|get going|feel real|hit the mark|draw you in|reward your patience|engage|impress|entertain|grip"
        "|live up to the hype|live up to its promise|build any tension|rise above the average|look good|satisfy",
    ),
    "bored": (
        "bored|disappointed|annoyed|sorry|let down|irritated|cheated|insulted|put off|frustrated|offended|tired"
        "|lost|embarrassed|unhappy",
        "moved|entertained|impressed|convinced|surprised|thrilled|amused|touched|engaged|pleased|satisfied|happy"
        "|charmed|scared|interested|excited",
    ),
    "regret": (  # something that a viewer does
        "regret it|regret this|regret watching it|complain|be sorry|be disappointed|be bored|feel cheated|hate it"
        "|want your money back|look at the clock|fall asleep|get tired of it|wish you had stayed at home"
        "|mind the length|want it to end|look away|feel let down|walk out|yawn",
        "love this|enjoy it|laugh|be impressed|be entertained|want to see it again|remember it|be moved|care|smile"
        "|be surprised|have fun|have a good time|believe a word of it|feel anything|get excited|be glad you saw it",
    ),
    "fault": (  # a part of the film
        "fault|criticize|complain about|object to|find anything wrong with|say anything bad about|find fault with"
        "|think of anything bad about|find a problem with|say a bad word about|find anything to criticize in",
        "praise|recommend|say anything good about|find anything to like in|think of anything good about|defend"
        "|find anything funny in|find a reason to see|find a good word for|find anything to admire in",
    ),
    "dislike": (  # there is something to do so
        "dislike|complain about|criticize|regret|hate|be ashamed of|find fault with",
        "like|enjoy|recommend|laugh about|admire|love|get excited about|care about|remember|praise",
    ),
}
_ANY = {
    "thing": "film|movie|story|plot|acting|script|ending|cast|music|humor|picture|dialogue|direction|show|comedy|book",
    "is": "is|was",
    "isn't": "is not|was not|isn't|wasn't",
    "it": "it|this|that|the {thing}|this {thing}",
    "very": "|||very |that |really |particularly |so |all that |exactly |too ",
    "ever": "||| at all| in any way| by any means| in the least| in the slightest",
    "did not": "did not|didn't|do not|don't|could not|couldn't|can't|cannot|never",
    "couldn't": "couldn't|could not|can't|cannot|couldn't|could not|can hardly|was unable to|failed to",
    "didn't": "didn't|did not|don't|do not|never|didn't once|never once",
    "won't": "won't|will not|won't ever|are not going to|are never going to|would not",
    "doesn't": "doesn't|does not|didn't|did not|never once did|doesn't ever|won't|will not",
    "single": "|single |single |single ",
    "who": "nobody|no one|none of us|not one of my friends|no one in the audience|nobody in my family",
    "parts": "actors|jokes|scenes|characters|songs|effects|episodes|performances|twists|supporting cast",
    "part": "cast|first half|second half|ending|script|soundtrack|lead|direction|final act|dialogue|story|book|show",
    "lead": "|||||||||||||and |honestly, |i must say |for once |in short: |surprisingly |believe me, |this time ",
    "tail": "|||||||||||| from start to finish| in two hours| the whole time| in the whole film| in the second half"
    "| for a second| for a moment| for a minute| once",
}
_REVERSED = (
    "not {very}{adjective}{ever}",
    "{it} {isn't} {very}{adjective}{ever}",
    "{it} {isn't} {very}{adjective}{ever}",
    "the {thing} {isn't} {adjective} or {adjective}",
    "{it} {is} not at all {adjective}",
    "{it} {is} never {adjective}",
    "{it} {is} hardly {adjective}",
    "{it} {is} far from {adjective}",
    "{it} {is} anything but {adjective}",
    "{it} {is} neither {adjective} nor {adjective}",
    "{it} {is} no {judgement}",
    "{it} {isn't} a {judgement}{ever}",
    "not a {judgement}{ever}",
    "hardly a {judgement}",
    "{it} {isn't} {adjective} enough to be a {judgement}",
    "there {is} nothing {adjective} about {it}",
    "nothing {adjective} here",
    "nobody in {it} {is} {adjective}",
    "no one could call {it} {adjective}",
    "i would not call {it} {adjective}",
    "i {did not} find {it} {very}{adjective}{ever}",
    "i {did not} think {it} {is} {adjective}",
    "i {did not} {verb} {it}{ever}",
    "i {did not} {verb} {it}{ever}",
    "you won't {verb} {it}",
    "nobody will {verb} {it}",
    "i can't say that i {past} {it}",
    "i have never {past} {it}",
    "{it} {is} without any {noun}",
    "{it} has no {noun}{ever}",
    "there {isn't} any {noun} in {it}",
    "never {adjective}, never {adjective}",
    "{it} {isn't} as {adjective} as i expected",
    "{it} {is} less {adjective} than people say",
    "{it} {is} by no means {adjective}",
    "{it} {is} in no way {adjective}",
    "{it} {is} by no means a {judgement}",
    "{it} {is} anything but a {judgement}",
    "far from the {judgement} that people say it is",
    "{lead}not a {single}{flaw}{tail}",
    "not one {flaw}{tail}",
    "without a {single}{flaw}{tail}",
    "hardly a {flaw}{tail}",
    "barely a {flaw}{tail}",
    "{lead}there {isn't} a {single}{flaw}{tail}",
    "{lead}there {is} not one {flaw} in {it}",
    "{lead}i {couldn't} find a {single}{flaw}{tail}",
    "{lead}i {didn't} see a {single}{flaw} in {it}",
    "you {won't} find a {single}{flaw} in {it}",
    "{it} {doesn't} have a {single}{flaw}",
    "no {flaws}",
    "no {flaws}, no {flaws}",
    "no {flaws} and no {flaws} in {it}",
    "zero {flaws}",
    "{lead}i have no {flaws} to report",
    "{lead}there were no {flaws}{tail}",
    "there are no {flaws} in {it}",
    "{it} has no {flaws}{ever}",
    "{it} {is} free of {flaws}",
    "{it} {is} without {flaws}",
    "{lead}{it} never {fails}{tail}",
    "{lead}{it} {doesn't} {fail}{tail}",
    "{lead}{it} {doesn't} {fail}{ever}",
    "{it} rarely {fails}",
    "the {part} never {fails}",
    "the {part} {doesn't} {fail}{tail}",
    "at no point does {it} {fail}",
    "not once does {it} {fail}",
    "nothing about {it} {fails}",
    "nothing about {it} {is} {adjective}",
    "none of the {parts} {fail}",
    "none of the {parts} are {adjective}",
    "none of it {is} {adjective}",
    "not one of the {parts} {is} {adjective}",
    "{it} never feels {adjective}{tail}",
    "{it} {doesn't} feel {adjective}{ever}",
    "{lead}i was never {bored}{tail}",
    "{lead}i was not {bored}{ever}",
    "{lead}i wasn't {bored}{tail}",
    "we weren't {bored}{ever}",
    "{who} was {bored}{tail}",
    "you {won't} be {bored}",
    "{lead}you {won't} {regret}",
    "i {didn't} {regret}{tail}",
    "{who} will {regret}",
    "{lead}i {couldn't} {fault} the {part}",
    "you {couldn't} {fault} the {part}",
    "{who} could {fault} {it}",
    "there {is} nothing to {dislike}{tail}",
    "there {isn't} anything to {dislike} in {it}",
    "there {is} not much to {dislike} here",
    "i found nothing to {dislike}",
    "{it} gives you nothing to {dislike}",
)
_KEPT = (
    "{adjective}",
    "{it} {is} {adjective}",
    "{it} {is} really {adjective} and {adjective}",
    "a {adjective} {thing}",
    "not only {adjective} but {adjective}",
    "{it} {isn't} just {adjective}, it {is} {adjective}",
    "{it} could not be {comparative}",
    "i have never seen a {comparative} {thing}",
    "i couldn't have wished for anything {comparative}",
    "no {thing} {is} {comparative} than this",
    "{it} never stops being {adjective}",
    "nobody could {verb} {it} more than i did",
    "i {verb} {it} very much",
    "i {past} {it}",
    "{it} {is} a {judgement}",
    "{it} has so much {noun}",
    "what a {judgement}",
    "{it} {is} one {flaw} after another",
    "every {flaw} you can think of",
    "so many {flaws}",
    "{lead}{it} {is} full of {flaws}",
    "plenty of {flaws}{tail}",
    "nothing but {flaws}",
    "no shortage of {flaws}",
    "{lead}there {is} many a {flaw} in {it}",
    "{lead}{it} {fails}",
    "{it} really {fails}",
    "{it} always {fails}",
    "the {part} {fails}",
    "all of the {parts} {fail}",
    "it {is} not only {adjective}, it also {fails}",
    "{lead}i was {bored}",
    "everyone was {bored}",
    "i have never been so {bored}",
    "i couldn't have been more {bored}",
    "you will be {bored}",
    "{lead}you will {regret}",
    "you can't help but {regret}",
    "{lead}you can {fault} the {part}",
    "there {is} a lot to {dislike}",
    "there {is} plenty to {dislike} in {it}",
    "i found so much to {dislike}",
)


def sentences(count: int, seed: int) -> list[Review]:
    """So many made sentences, as many positive as negative; the same seed makes the same ones."""
    random = np.random.default_rng(seed)
    measured = {tuple(words(review.text)) for review in negated.ALL}

    def one_of(choices: str) -> str:
        return str(random.choice(choices.split("|")))

    made: list[Review] = []
    while len(made) < count:
        review = _sentence(label=len(made) % 2, reverse=random.random() < 0.5, one_of=one_of)
        if tuple(words(review.text)) not in measured:
            made.append(review)
    return made


def _sentence(*, label: int, reverse: bool, one_of: Callable[[str], str]) -> Review:
    said = 1 - label if reverse else label
    text = one_of("|".join(_REVERSED if reverse else _KEPT))
    while "{" in text:
        before, _, rest = text.partition("{")
        name, _, after = rest.partition("}")
        text = before + _filled(name, said, one_of) + after
    return Review(text=text, label=label)


def _filled(name: str, said: int, one_of: Callable[[str], str]) -> str:
    if name == "fails":
        return _third_person(one_of(_WORDS["fail"][said]))
    return one_of(_WORDS[name][said] if name in _WORDS else _ANY[name])


def _third_person(verb: str) -> str:
    first, _, rest = verb.partition(" ")
    return f"{first}{'es' if first.endswith(('s', 'sh', 'ch', 'o')) else 's'} {rest}".rstrip()

"""Negated sentences with their labels: made ones to train on, written ones to measure with.

Words of praise and blame far outweigh the small words that turn them round, and reviews show too few of the pairs
("funny", "not funny") for a small model to learn from. So pairs are made: a pattern, and a word of praise or blame in
it. What a pattern says is either what its word says or the opposite.
"""

from collections.abc import Callable

import numpy as np

from millrace.artifacts.vocabulary import words
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
}
_ANY = {
    "thing": "film|movie|story|plot|acting|script|ending|cast|music|humor|picture|dialogue|direction|show|comedy|book",
    "is": "is|was",
    "isn't": "is not|was not|isn't|wasn't",
    "it": "it|this|that|the {thing}|this {thing}",
    "very": "|||very |that |really |particularly |so |all that |exactly |too ",
    "ever": "||| at all| in any way| by any means| in the least| in the slightest",
    "did not": "did not|didn't|do not|don't|could not|couldn't|can't|cannot|never",
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
)


_NEGATIVE = """\
Not good at all.
I did not like it.
I didn't enjoy a single minute of this.
This is not what I would call a good film.
Nothing about it is funny.
The acting isn't convincing.
It never becomes interesting.
Hardly a masterpiece.
I can't recommend this to anyone.
The jokes don't work.
I wouldn't watch it again.
No one in the cast is any good.
It is neither funny nor moving.
Without a single memorable moment.
This could not be worse.
It doesn't deserve the praise it got.
The story is not very original.
Far from perfect, and not even entertaining.
I am not impressed.
The effects aren't special, and the script isn't either.
There isn't any suspense.
I don't see why people love this.
Not worth the price of the ticket.
It is not terrible, it is worse.
Not even the music could save it.
Don't bother.
It lacks any charm.
The film fails to be scary.
I had high hopes and none of them was met.
The ending makes no sense.
It wasn't nearly as clever as it thinks.
You will not laugh once.
I would not call this entertainment.
Nobody should have to sit through this.
The direction is not so great.
Never funny, never touching.
She cannot act.
It is no fun.
I couldn't wait for it to end.
Not a good movie by any standard.
"""
_POSITIVE = """\
Not bad at all.
I did not hate it, quite the opposite.
You won't be disappointed.
I have never seen a better thriller.
There is nothing wrong with this little movie.
The plot isn't stupid at all.
It never gets boring.
There is hardly a weak scene in it.
I can't recommend it highly enough.
The two hours didn't feel long.
I wouldn't change a thing.
No one who loves film should miss it.
It is neither slow nor predictable.
Without a doubt the best picture this year.
This could not be better.
It doesn't deserve the bad reviews.
The story is not as silly as it sounds.
Far from dull.
I was not bored for a second.
The leads aren't famous, but they are wonderful.
There isn't a dull moment.
I don't understand why people dislike this, it is charming.
Not to be missed.
It is not just good, it is great.
Not only beautiful but also clever.
Don't miss it.
It never lacks charm.
The film never fails to make me laugh.
I expected nothing and loved every minute.
No complaints, a lovely film.
It wasn't the disaster that the critics describe.
You will not regret seeing it.
I would not call this a failure by any means.
Nobody does comedy better.
The direction is not half bad.
Never stupid, never cheap.
I could not stop smiling.
It is no waste of time.
I couldn't take my eyes off the screen.
Not a bad movie by any standard.
"""
# Written by hand before the first pattern was, to measure with: nothing is trained on them, and none of them is made.
MEASURED = tuple(
    Review(text=text, label=label) for label, texts in enumerate((_NEGATIVE, _POSITIVE)) for text in texts.splitlines()
)

_OF_BLAME = """\
Not a dull moment in two hours.
I couldn't find a single flaw.
There was nothing I disliked about it.
Not one scene is wasted.
I have no complaints whatsoever.
You cannot go wrong with this one.
It never drags, not even in the second half.
The plot holds no disappointments.
I can't think of anything bad to say about it.
None of the jokes fall flat.
There isn't a weak performance in the whole film.
It is by no means a failure.
Nothing about this feels cheap.
I was never bored.
You won't be sorry you went.
The script has no holes that I could see.
This sequel doesn't disappoint.
It doesn't waste a minute of your time.
I didn't want it to end.
I couldn't look away.
Critics were wrong, this is not a mess at all.
At no point does it become tedious.
It isn't the least bit pretentious.
My kids did not get bored once.
There are no boring stretches.
Hardly a false note anywhere.
I don't have a bad word to say about the cast.
No cheap tricks, no cliches, no stupid twists.
Nobody in the audience was disappointed.
The ending did not let me down.
It wasn't awful like the first one.
The effects never look fake.
You will not find a better comedy this year.
I can't fault the direction.
It is not without humor, and it is never dumb.
Far from the disaster I was expecting.
I can't complain about the music either.
Without a single wasted frame.
Not boring in the slightest.
Two hours passed and I didn't check my watch once.
She doesn't hit a wrong note.
I would not hesitate to watch it again.
There is not much to criticize here.
This film is anything but forgettable.
"""
_OF_PRAISE = """\
I couldn't find a single reason to like it.
There is nothing clever about this script.
Not one joke works.
None of the actors are convincing.
The film has no heart at all.
I have no desire to see it again.
You won't miss anything if you skip it.
It isn't scary, it isn't funny, it isn't anything.
I never cared about any of the characters.
Not even the great cast can help.
I cannot say anything good about it.
It is not the masterpiece people claim.
Nobody in my family enjoyed it.
The second half is not nearly as strong as the first.
I didn't laugh once.
There was no chemistry between the leads.
It does not live up to the book.
Not my idea of entertainment.
I wouldn't recommend this to my worst enemy.
The story never comes together.
Without any wit or style.
No amount of special effects can make this exciting.
I was not moved for a second.
It is hardly worth your time.
"""
# Written after the bundled model was trained, and never looked at since while anything was changed: what blame, and what
# praise, becomes when it is negated.
LATER = tuple(
    Review(text=text, label=label) for label, texts in ((1, _OF_BLAME), (0, _OF_PRAISE)) for text in texts.splitlines()
)


def sentences(count: int, seed: int) -> list[Review]:
    """So many made sentences, as many positive as negative; the same seed makes the same ones."""
    random = np.random.default_rng(seed)
    measured = {tuple(words(review.text)) for review in (*MEASURED, *LATER)}

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
        text = before + one_of(_WORDS[name][said] if name in _WORDS else _ANY[name]) + after
    return Review(text=text, label=label)

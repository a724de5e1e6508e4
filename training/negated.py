"""Negated sentences to measure with, written by hand: nothing is trained on them, and `negation` makes none of them."""

from training.data import Review

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
# Written before the first pattern of `negation` was.
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
_LATER_OF_BLAME = """\
I have seen worse films win awards, and this one has no weaknesses worth naming.
There wasn't a moment when I felt bored.
It's not slow at all, whatever they tell you.
You won't hear me complaining about this movie.
I wasn't expecting much, but I was not let down.
The humor never gets old.
Not a single bad performance in the bunch.
It doesn't get bogged down in sentimentality.
I didn't find it too long.
None of it feels forced.
He never once overacts.
Don't listen to the critics, there is nothing wrong with it.
There is nothing boring about these two hours.
I can't imagine anyone not liking this.
I couldn't get enough of it.
It is never dull and never predictable.
Without any of the usual cliches of the genre.
No filler, no nonsense.
The dialogue isn't clumsy, and the plot is not confusing.
I would never call this a waste of time.
You'll have no regrets about buying a ticket.
It isn't a perfect film but it is not a bad one either.
Not for a moment did I doubt these characters.
There are hardly any slow spots.
I don't see how anybody could dislike this.
This is no ordinary thriller and certainly no dud.
The second part didn't disappoint either.
I have not a negative word to say.
Nothing annoyed me.
It does not insult your intelligence.
Nobody walked out, nobody yawned.
The pacing is never off.
You can't help but love it.
It wasn't as terrible as I feared.
The special effects aren't cheap looking.
My only complaint is that I have no complaints.
I did not regret a single penny.
At two hours it is not a minute too long.
The songs are not annoying, which is rare.
There's no weak link in the cast.
I don't hate remakes anymore after this one.
Couldn't have asked for more.
It's not the worst way to spend an evening, far from it.
I wasn't tempted to fast forward even once.
"""
_LATER_OF_PRAISE = """\
I can't find one good thing to say about it.
It never made me laugh.
There isn't a single likable person in it.
Not worth watching, not even for free.
It does nothing new or exciting.
No one involved seems to care.
The romance isn't believable.
I wouldn't sit through this again.
It is not clever, it only thinks it is.
There's nothing special here.
The film doesn't deliver on its premise.
I didn't care how it ended.
Hardly the comedy of the year.
It wasn't fun for anyone.
None of the scares are scary.
The director has no feel for drama.
"""


def _reviews(of_blame: str, of_praise: str) -> tuple[Review, ...]:
    """Blame that is denied is praise, and the other way round."""
    return tuple(
        Review(text=text, label=label)
        for label, texts in ((1, of_blame), (0, of_praise))
        for text in texts.splitlines()
    )


# Written before the patterns about flaws, scenes that drag and viewers who are bored.
DENIED = _reviews(_OF_BLAME, _OF_PRAISE)
# Written after the bundled model was trained.
LATER = _reviews(_LATER_OF_BLAME, _LATER_OF_PRAISE)

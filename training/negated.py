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
_FRESH_OF_BLAME = """\
I looked for something to criticize and came away with nothing.
There is not an ounce of fat on this film.
Never for an instant does the tension slacken.
It runs almost three hours and I didn't feel them.
Not a false step from the first shot to the last.
My husband, who hates musicals, didn't complain once.
Nothing about the production looks amateurish.
I have yet to find fault with anything this director has made.
The twist isn't cheap, and it doesn't cheat the audience.
You'd be hard pressed to name a weakness.
She isn't annoying at all, unlike in her earlier roles.
It's hard to find anything wrong with a film this warm.
The script never insults us with easy answers.
We weren't disappointed for a second.
This is far from the worst of the series.
It fails to disappoint.
No padding, no preaching, no phony tears.
There's nothing clichéd in the way their friendship grows.
It manages to be sad without being depressing.
I wasn't annoyed by the shaky camera as I usually am.
It does not suffer from the usual sequel problems.
The jokes never feel tired or mean.
He tells the story without a trace of self pity.
Don't let anybody tell you this is a bore.
I went in expecting trash, and trash it is not.
The violence isn't gratuitous.
I couldn't be happier that I bought it.
None of the performances ring hollow.
For a low budget film it doesn't look cheap in the least.
You will never be bored in its company.
There is hardly anything to dislike here.
Neither the pace nor the acting ever falters.
I can't say I was ever confused, which is an achievement.
The romance is free of any sappy nonsense.
I've watched it ten times and I'm not sick of it.
It lacks the flaws that ruined the first film.
Its length was not a problem for me.
They didn't ruin the book, thank heavens.
I never had the urge to leave.
I would hardly call these characters shallow.
The ending is not a letdown.
Not one minute of it is wasted on nonsense.
This is anything but a lazy remake.
Nobody in the theater was checking a phone.
Even the child actors aren't irritating.
The film has none of the clumsiness of a first work.
It isn't dated or corny, even after fifty years.
Little here could be called bad.
The special effects do not overwhelm the story.
No scene goes on too long.
It would be wrong to call it pointless.
I don't think there is an ugly frame in it.
This was never going to be a flop, and it isn't.
The humor is never crude.
There were no awkward silences and no bad lines.
I can hardly think of a better way to waste an evening.
It did not deserve to fail at the box office.
At no time did I regret renting it.
The dubbing didn't bother me in the slightest.
Without any doubt not a disaster, whatever the papers wrote.
"""
_FRESH_OF_PRAISE = """\
I waited in vain for anything amusing to happen.
There is not a shred of wit in this thing.
Never for an instant did I believe in these people.
You'd be hard pressed to name a single strength.
It fails to excite.
It's hard to find anything nice to say about it.
The chemistry everyone talks about isn't there.
No laughs, no thrills, no point.
I can't see what the fuss is about.
It's not clever and it's certainly not original.
The sequel has none of the charm of the first film.
This is far from his best work.
He isn't convincing as a detective.
Nobody in the theater was laughing.
I wasn't won over by the songs.
Nothing in it is worth remembering.
Don't believe the hype, this is no classic.
I would hardly call it entertaining.
The dialogue never sounds natural.
We did not have a good time.
The story lacks excitement and never grips.
It wasn't worth the two hour drive.
I have yet to meet anybody who enjoyed it.
Without the star there would be no reason to watch.
It is anything but thrilling.
Neither the hero nor the villain is interesting.
I didn't find the child cute or the dog funny.
They never make us care.
You won't be glad you stayed to the end.
Her performance isn't up to her usual standard.
"""
_UNSEEN_OF_BLAME = """\
Not one scene drags, even at nearly three hours.
there is nothing clumsy about the way the story unfolds
I never once checked my watch.
The script has no weak spots.
You will hardly notice the two and a half hours going by.
The dialogue is free of cheap sentiment.
This sequel is far from the disaster everyone predicted.
The ending is anything but predictable.
It lacks any trace of pretension.
Neither the pacing nor the acting ever falters.
The second half didn't sag the way these movies usually do.
Tense and clever, without a wasted frame from start to finish.
I can't think of anything I would cut.
The film never talks down to its audience.
Nobody in the cast puts a foot wrong.
There isn't a false note in her performance.
The director refuses to insult our intelligence.
No lazy jump scares, no stupid characters, no tacked-on romance.
My kids were not bored for a second.
The humor never turns mean or crude, and it is wonderfully silly.
Hardly a line of dialogue feels forced.
If this movie has any faults, I failed to spot them.
A charming mystery that avoids every cliche of the genre.
The twists are not the least bit contrived.
I have no complaints about the casting whatsoever.
two hours passed without my feeling restless
The special effects don't look fake at all.
It is by no means the mess the critics described.
The last installment in the series does not disappoint.
You won't regret buying a ticket.
There's not an ounce of fat on this superb thriller.
The remake does nothing to tarnish the original.
Scarcely a moment feels padded.
I was hard pressed to find anything wrong with it.
The plot isn't confusing or overlong, as I had feared.
It is moving and funny and never gets preachy.
Who said this was boring? I certainly didn't find it so.
A beautiful war film devoid of bombast and phony heroics.
The waiter was never rude, not even when we changed our order twice.
no hidden fees, no pushy upselling
I have yet to have a bad meal here.
The phone hasn't crashed or frozen once since I bought it.
Our room was spotless, and there was no noise from the street.
The steak wasn't overcooked and the fries weren't greasy.
Zero problems with the delivery.
The app does not drain my battery or spam me with ads.
Checkout went off without a hitch.
I can't fault the staff in any way.
There is nothing flimsy about this case.
Not a crumb was left on our plates.
This novel is anything but tedious.
The shop assistant did not rush us, and nobody pressured us to buy.
Prices are far from outrageous for this part of town.
We never had to wait more than five minutes for a table.
The battery shows no sign of weakening after two years.
Neither the soup nor the dessert let us down.
I wouldn't change a thing about our stay.
The update didn't break anything, and the app is faster now.
a lovely little hotel with none of the usual tourist-trap nonsense
The translation is never stilted or awkward.
Nothing arrived damaged, late or missing.
My mechanic has never overcharged me.
I found it impossible to put this book down.
The screen doesn't scratch easily, nor does it smudge.
The excellent night porter was never too busy to help us.
Hard to find anything to dislike about this cafe.
You can't go wrong with their fish tacos.
This vacuum hasn't failed me yet.
I couldn't stop smiling all the way home.
No wonder this place is always packed, the pasta is delicious.
I had not read the book, but I adored the film.
Not only is it funny, it is also deeply touching.
It's no secret that she is a brilliant actress, and here she shines.
I never knew a budget phone could take such gorgeous photos.
Don't hesitate, book this wonderful hotel today.
There is no doubt that this is his finest film.
"""
_UNSEEN_OF_PRAISE = """\
I didn't care about a single person on screen.
The jokes are not funny.
There is nothing original in this movie.
It never comes close to being scary.
The chemistry between the two leads is nonexistent, and neither can act.
hardly the masterpiece the trailer promised
I would not recommend this film to anyone.
The plot makes no sense and the characters have no depth.
A comedy without wit, charm or warmth.
It's far from the director's best, and far from entertaining.
The story doesn't go anywhere.
Not even the talented cast can save this script.
None of it feels real or believable.
The film lacks any sense of suspense.
I couldn't stay awake past the first hour.
The ending was anything but satisfying.
It fails to deliver the thrills it advertises.
Nobody I watched it with enjoyed it.
The sequel never recaptures the magic of the first one.
There's no reason to sit through this.
Neither clever nor exciting, it just plods along.
This is no classic, and it isn't even a decent time-killer.
The action scenes don't excite and the romance doesn't convince.
The food wasn't fresh and the service wasn't friendly.
We won't be coming back to this restaurant.
The phone doesn't hold a charge for more than two hours.
The app never works when I need it.
Nothing about the room matched the pretty pictures online.
No one at the front desk was willing to help.
I can't say anything nice about this hotel.
The shoes did not last a month.
Customer support is by no means helpful.
The book is not well written, nor is it well researched.
I have rarely been less impressed by a meal.
This blender isn't worth half of what I paid.
I couldn't wait for this awful film to end.
Not only was the soup cold, the waiter was rude as well.
There is no denying that this movie is a bore.
I don't know who wrote this garbage.
I haven't seen the first one, but this sequel is terrible.
No surprise that the app has such bad ratings, it crashes constantly.
Never mind the hype, this book is dreadful.
"""
_PLAIN_PRAISE = """\
I had not heard of the director before, and this was a wonderful discovery.
Not only the leads but the whole cast is superb.
No wonder it won so many awards.
I know nothing about chess and still loved every scene.
It is not just pretty, it is deeply moving.
I had never been to a midnight screening, and what a great night it was.
We do not get to see films this beautiful very often.
A brilliant thriller that nobody should read about beforehand.
There was no popcorn left, but the film made up for it: simply delightful.
I cannot wait to see it again, a gem.
"""
_PLAIN_BLAME = """\
I had not heard of the director before, and now I know why: this is dreadful.
Not only the script but the acting is terrible.
No wonder it went straight to video.
I have never seen anything so stupid.
It is not just slow, it is deadly dull.
There is no doubt that this is the worst film of the year.
I have nothing against vampires, but this was a boring mess.
Nothing but clichés and bad acting.
A tedious film that nobody asked for.
We could not stop yawning at this lame comedy.
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
# Written before any later training and read once, when it was over.
FRESH = _reviews(_FRESH_OF_BLAME, _FRESH_OF_PRAISE)
# Written by somebody who had not seen the patterns, and read once, after training. One that a pattern makes is left
# out, and one that stands above.
UNSEEN = _reviews(_UNSEEN_OF_BLAME, _UNSEEN_OF_PRAISE)
# Words that elsewhere deny, in sentences whose other words mean what they say.
PLAIN = _reviews(_PLAIN_PRAISE, _PLAIN_BLAME)
ALL = (*MEASURED, *DENIED, *LATER, *FRESH, *UNSEEN, *PLAIN)

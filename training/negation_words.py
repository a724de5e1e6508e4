"""The words that `negation` puts into its patterns: of blame, of praise, and those that say neither."""

WORDS = {  # (of blame, of praise)
    "adjective": (
        "bad|boring|dull|awful|terrible|stupid|silly|predictable|slow|weak|poor|horrible|annoying|ridiculous|ugly"
        "|flat|lazy|cheap|disappointing|tedious|pointless|confusing|mediocre|unfunny|lame|shallow|bland|forgettable"
        "|painful|pretentious|clumsy|empty|dreadful|messy|unconvincing|offensive|wooden|cheesy|tiresome|lifeless"
        "|trite|sappy|corny|contrived|sluggish|muddled|uninspired|hackneyed|vulgar|crude|mean|nasty|preachy"
        "|monotonous|sloppy|unpleasant|depressing|unbearable|laughable|overlong|unnecessary|generic|stale|tired"
        "|dated|phony|fake|forced|incoherent|incomprehensible|pathetic|tasteless|repetitive|exhausting|amateurish"
        "|irritating|obnoxious|insulting|lousy|horrendous|atrocious|dumb|lackluster|uneven|rushed|stilted|hollow"
        "|harsh|sad|dreary|drab|bleak|wrong|trashy|hokey|gross|heavy-handed|one-dimensional|mindless|nonsensical"
        "|useless|worthless|insipid|dry|noisy|overdone|overrated|grating|sentimental|melodramatic|disgusting|long"
        "|manipulative|derivative|obvious|cold|frustrating|a waste|a letdown|too long|too slow|too silly|overacted"
        "|miscast|patronizing|tacky",
        "good|great|funny|interesting|exciting|clever|convincing|beautiful|entertaining|original|enjoyable"
        "|impressive|moving|fun|memorable|wonderful|smart|scary|special|excellent|brilliant|touching|gripping"
        "|amusing|charming|fascinating|engaging|perfect|amazing|likable|inspired|deep|witty|subtle|realistic"
        "|thrilling|hilarious|believable|fresh|powerful|superb|delightful|terrific|fantastic|marvelous|compelling"
        "|captivating|absorbing|lovely|gorgeous|stunning|sharp|intelligent|thoughtful|poignant|tender|heartfelt|warm"
        "|inventive|imaginative|creative|refreshing|outstanding|remarkable|extraordinary|satisfying|uplifting"
        "|inspiring|authentic|honest|intense|suspenseful|riveting|mesmerizing|haunting|dazzling|lively|sweet|cute"
        "|cool|elegant|graceful|sincere|sophisticated|insightful|profound|rich|vivid|spectacular|breathtaking"
        "|magical|hypnotic|energetic|worthwhile|rewarding|pleasant|humorous|credible|coherent|polished|well acted"
        "|well written|nice|worth seeing|worth your time|right|effective|masterful|unforgettable|cohesive|a success"
        "|a surprise|on target|enchanting",
    ),
    "comparative": (
        "worse|duller|more boring|more stupid|weaker|sillier|more tedious|poorer|less funny|less interesting",
        "better|funnier|more exciting|more moving|smarter|more beautiful|stronger|more enjoyable|scarier|finer",
    ),
    "verb": (
        "hate|dislike|despise|regret",
        "like|enjoy|love|recommend|admire|care for",
    ),
    "past": (
        "hated|disliked|regretted|suffered through",
        "liked|enjoyed|loved|admired|laughed at",
    ),
    "noun": (
        "flaws|mistakes|weak scenes|clichés|dull moments|bad jokes|failures|problems|faults|waste of time|nonsense"
        "|sentimentality|padding|clumsiness|stupidity|laziness|boredom|bad acting|bad taste|preaching|vulgarity"
        "|filler|cheap thrills|silliness|melodrama|confusion|schmaltz|pretension|errors|goofs|gaps|trash|cruelty"
        "|shortcomings|defects|drawbacks|bad writing|weaknesses|failings|missteps|lulls|holes",
        "charm|wit|humor|suspense|heart|tension|talent|good jokes|originality|warmth|surprises|depth|magic|passion"
        "|inspiration|beauty|imagination|intelligence|excitement|energy|life|feeling|sparkle|atmosphere|chemistry"
        "|subtlety|credibility|fun|style|grace|emotion|merit|class|flair|appeal|elegance|honesty|wisdom|spirit"
        "|quality|meaning|ideas|thrills|laughs",
    ),
    "judgement": (
        "disaster|failure|mess|bore|bad film|waste of time|bad movie|dud|flop|turkey|bomb|train wreck|letdown"
        "|disappointment|bad joke|chore|stinker|fiasco|clunker|catastrophe|embarrassment|snooze|cheap copy"
        "|failed experiment|rip off|insult",
        "masterpiece|triumph|classic|delight|good film|great movie|joy|success|gem|treasure|winner|hit|charmer"
        "|work of art|marvel|great comedy|must see|crowd pleaser|thrill ride|revelation|good movie|pleasure|feast"
        "|fine drama|surprise|wonder|treat|great film",
    ),
    "flaw": (
        "flaw|false note|weak scene|dull moment|boring scene|wasted minute|bad performance|misstep|plot hole|cliché"
        "|mistake|slow moment|cheap trick|bad line|wrong note|weak spot|loose end|lull|clumsy line|wasted word"
        "|weak performance|dull scene|boring second|bad scene|tedious minute|hole in the plot|blemish|weakness"
        "|shortcoming|defect|error|goof|weak link|dead spot|hiccup|bad note|bum note|lame joke|bad apple|stupid line"
        "|awkward scene|awkward moment|cheap shot|lapse|low point|clunker|bad joke|bad shot|failing|forced laugh"
        "|silly scene|wooden actor|complaint|problem|fault|bad seed|wasted frame|ugly shot|clumsy scene|phony moment"
        "|bad minute|lazy scene|false move|rough edge|trite line",
        "laugh|good joke|funny line|memorable scene|clever idea|surprise|likable character|convincing performance"
        "|good scene|original thought|interesting moment|exciting scene|good performance|moving moment|smile"
        "|redeeming quality|touching moment|witty line|great scene|believable character|thrill|good idea|fresh joke"
        "|chuckle|spark|gag that works|stroke of genius|fine moment|original idea|clever line|decent performance"
        "|decent actor|real laugh|good line|interesting character|real scare|moment of beauty|clever twist"
        "|beautiful shot|great song|moment of tension|strong point|strength|virtue|reason to watch|highlight"
        "|bright spot|saving grace|flash of wit|genuine emotion|believable moment|funny moment|scare|honest emotion"
        "|memorable line|positive thing|good thing|good actor|fun moment",
    ),
    "flaws": (
        "complaints|regrets|flaws|plot holes|disappointments|dull stretches|boring parts|weak links|clichés|mistakes"
        "|cheap tricks|slow parts|false notes|objections|weaknesses|faults|bad performances|dead spots|stupid twists"
        "|silly jokes|wasted scenes|lazy moments|shortcomings|defects|errors|goofs|lulls|weak spots|problems"
        "|awkward scenes|holes|quibbles|gripes|letdowns|rough edges|pitfalls|low points|bad jokes|bad actors"
        "|bad lines|lame jokes|drawbacks|wasted minutes|forced laughs|boring scenes|missteps|wrong notes|failings"
        "|bad scenes|annoying characters|dull moments|loose ends|problems at all|bad moments|hiccups",
        "surprises|laughs|thrills|good jokes|redeeming qualities|memorable scenes|charm|wit|heart|suspense"
        "|good ideas|likable characters|tension|originality|style|soul|energy|chemistry|depth|clever twists"
        "|great scenes|delights|highlights|strengths|merits|virtues|good scenes|good performances|sparks|chuckles"
        "|real scares|clever lines|good lines|great moments|funny lines|exciting scenes|ideas|fun moments"
        "|decent actors|interesting characters|good qualities|strong points|touching moments|fine performances"
        "|bright spots|magic|good reasons to watch|emotions|insights",
    ),
    "fail": (
        "drag|disappoint|bore|fall flat|lose steam|overstay its welcome|let you down|waste your time|fall apart"
        "|insult the audience|run out of ideas|feel forced|feel fake|feel too long|lose its way|get boring|get old"
        "|become tedious|become silly|annoy|stumble|sag|slow down|miss the mark|ring false|grate|tire"
        "|lose the viewer|take itself too seriously|resort to cheap tricks|wear thin|go wrong|hit a false note"
        "|look cheap|fail|irritate|frustrate|offend|pander|preach|cheat|meander|ramble|dawdle|plod|crumble|collapse"
        "|flounder|flop|fizzle|stall|wander|overdo it|go overboard|overreach|repeat itself|talk down to us|let up"
        "|go stale|become boring|become annoying|become dull|feel dull|feel stale|feel dated|feel rushed"
        "|lose momentum|lose focus|lose interest|bog down|get stuck|fall into cliché|sink into sentiment"
        "|descend into farce|hurt|wear out its welcome|outstay its welcome|trip up|sell out|disgust|suck|stink"
        "|backfire|seem silly|seem fake|seem forced|become a mess|turn sappy|turn preachy|feel like a lecture"
        "|make you cringe|ruin the mood|spoil the fun|embarrass itself|look fake|look silly|drag on|grow tiresome"
        "|bore us|lose me|disappoint me|let me down|disappoint us|get lost",
        "delight|surprise|convince|move you|come alive|come together|work|make sense|hold your attention|hold up"
        "|make you laugh|make you care|take off|find its voice|ring true|earn its ending|pay off|deliver|shine"
        "|thrill|touch you|get going|feel real|hit the mark|draw you in|reward your patience|engage|impress"
        "|entertain|grip|live up to the hype|live up to its promise|build any tension|rise above the average"
        "|look good|satisfy|enchant|charm|dazzle|amuse|captivate|inspire|excite|fascinate|soar|sparkle|succeed"
        "|connect|click|resonate|involve us|move me|move us|surprise us|add up|gel|catch fire|ignite|please|intrigue"
        "|win you over|win me over|grab you|grab me|stir the heart|make me laugh|make me smile|make us care"
        "|take flight|flow|stand out|sing|feel fresh|feel authentic|feel natural|seem real|give us a reason to care"
        "|touch the heart|rise to greatness|create suspense|hold together|keep you guessing|keep me interested"
        "|hold my interest|engage us|involve me|scare|scare anyone|bring a smile|become exciting|become funny"
        "|build to anything|show any wit|show any charm|show any heart|excel|work for me",
    ),
    "bored": (
        "bored|disappointed|annoyed|sorry|let down|irritated|cheated|insulted|put off|frustrated|offended|tired|lost"
        "|embarrassed|unhappy|upset|unsatisfied|dissatisfied|underwhelmed|disgusted|depressed|confused|exhausted"
        "|sick of it|tired of it|angry|appalled|unimpressed|put to sleep|distracted|sleepy|restless|disinterested"
        "|turned off|bothered",
        "moved|entertained|impressed|convinced|surprised|thrilled|amused|touched|engaged|pleased|satisfied|happy"
        "|charmed|scared|interested|excited|captivated|delighted|fascinated|absorbed|involved|gripped|hooked"
        "|enchanted|intrigued|won over|inspired|dazzled|swept away|glad i saw it|on the edge of my seat|enthralled"
        "|enlightened|shocked by the twist|awed|blown away|drawn in|interested in anyone|invested|laughing|smiling",
    ),
    "regret": (
        "regret it|regret this|regret watching it|complain|be sorry|be disappointed|be bored|feel cheated|hate it"
        "|want your money back|look at the clock|fall asleep|get tired of it|wish you had stayed at home"
        "|mind the length|want it to end|look away|feel let down|walk out|yawn|roll your eyes|check your watch"
        "|cringe|groan|fidget|doze off|lose interest|give up on it|get bored|get tired|tire of it|grow weary"
        "|demand a refund|ask for your money back|wish it were shorter|find it boring|find it dull|call it boring"
        "|suffer|have regrets|get restless|be annoyed|get annoyed|feel insulted|feel bored|want to leave|leave early"
        "|leave disappointed|be let down|go home unhappy|be offended|hate yourself|waste your time|waste your money"
        "|find anything better",
        "love this|enjoy it|laugh|be impressed|be entertained|want to see it again|remember it|be moved|care|smile"
        "|be surprised|have fun|have a good time|believe a word of it|feel anything|get excited|be glad you saw it"
        "|cheer|chuckle|be amused|find it funny|be captivated|fall in love with it|get involved|be delighted"
        "|be fascinated|recommend it|tell your friends to see it|be thrilled|shed a tear|believe it"
        "|have a great time|be charmed|care for anyone|root for anyone|be scared|find it interesting"
        "|find it exciting|leave happy|leave satisfied|be satisfied|get your money's worth|want a sequel|thank me"
        "|buy the dvd|feel good|see it twice",
    ),
    "fault": (
        "fault|criticize|complain about|object to|find anything wrong with|say anything bad about|find fault with"
        "|think of anything bad about|find a problem with|say a bad word about|find anything to criticize in",
        "praise|recommend|say anything good about|find anything to like in|think of anything good about|defend"
        "|find anything funny in|find a reason to see|find a good word for|find anything to admire in",
    ),
    "annoyed": (
        "annoyed|bored|irritated|disappointed|offended|bothered|disturbed|confused|exhausted|put off|tired|upset"
        "|ruined it for|depressed|frustrated|insulted|displeased|let down|distracted|angered|grated on|hurt"
        "|disgusted|failed",
        "moved|surprised|impressed|amused|touched|entertained|convinced|thrilled|interested|excited|won over"
        "|delighted|captivated|fascinated|charmed|pleased|inspired|gripped|dazzled|worked for|hooked|stirred"
        "|satisfied|intrigued|enchanted|scared",
    ),
    "word": (
        "complaint|bad word to say|negative word to say|objection|regret|bad thing to say|reason to complain|quibble",
        "good word to say|kind word to say|nice thing to say|word of praise|good thing to report|reason to stay",
    ),
    "worst": (
        "worst|dullest|silliest|stupidest|most boring|weakest|cheapest|least funny|most tedious",
        "best|funniest|smartest|finest|most exciting|strongest|most moving|scariest|most original",
    ),
    "dislike": (
        "dislike|complain about|criticize|regret|hate|be ashamed of|find fault with|complain of|be sorry about"
        "|object to|be embarrassed by|criticise|forgive|be angry about|apologize for|moan about|be annoyed by|mock"
        "|be bored by|frown at|roll your eyes at",
        "like|enjoy|recommend|laugh about|admire|love|get excited about|care about|remember|praise|cheer about"
        "|be excited by|smile at|appreciate|savor|treasure|cherish|be impressed by|be proud of|write home about"
        "|hold on to|be thankful for|rave about|laugh at|look forward to|root for|cheer for",
    ),
    "quality": (
        "boredom|stupidity|sentimentality|laziness|cynicism|vulgarity|silliness|pretension|clumsiness|cruelty"
        "|self pity|malice|fat|flab|padding|nonsense|cliché|fakery|falseness|bad taste|schmaltz|weakness|arrogance"
        "|preachiness|contempt|phoniness",
        "wit|charm|humor|originality|warmth|intelligence|talent|style|imagination|suspense|tension|emotion|life"
        "|energy|subtlety|sense|credibility|beauty|grace|depth|joy|fun|excitement|passion|truth|insight|inspiration"
        "|chemistry|creativity|feeling|magic|class",
    ),
    "ruin": (
        "ruin|spoil|waste|damage|destroy|kill|mar|undermine|hurt|butcher|botch|weaken|wreck|drag down|cheapen",
        "improve|save|lift|enliven|rescue|redeem|enrich|elevate|help|brighten|strengthen|justify|honor|enhance",
    ),
    "adverb": (
        "badly|poorly|terribly|clumsily|stupidly|carelessly|lazily|cheaply|awkwardly|horribly|ineptly|painfully"
        "|pointlessly",
        "well|beautifully|brilliantly|cleverly|nicely|wonderfully|skillfully|smoothly|elegantly|superbly|gracefully"
        "|convincingly|carefully|perfectly",
    ),
    "critic": (
        "a bore|a mess|a waste of time|a failure|a disaster|boring|dull|stupid|bad|terrible|awful|slow|too long"
        "|silly|weak|pretentious|predictable|a disappointment|overrated|worthless|trash|garbage|a stinker",
        "a masterpiece|a classic|brilliant|great|funny|clever|a triumph|wonderful|hilarious|a work of art|a gem"
        "|original|excellent|good|scary|entertaining|moving|a success|the best film of the year|worth seeing",
    ),
}
NEUTRAL = {
    "thing": (
        "film|movie|story|plot|acting|script|ending|cast|music|humor|picture|dialogue|direction|show|comedy|book"
        "|sequel|remake|thriller|drama|documentary|cartoon|series|performance|screenplay|production|camera work"
        "|photography|soundtrack|romance|western|adaptation|premise|finale|episode|game|song|album|novel|phone"
        "|product|restaurant|service"
    ),
    "is": ("is|was"),
    "isn't": ("is not|was not|isn't|wasn't"),
    "it": ("it|this|that|the {thing}|this {thing}"),
    "very": ("|||very |that |really |particularly |so |all that |exactly |too "),
    "ever": ("||| at all| in any way| by any means| in the least| in the slightest"),
    "did not": ("did not|didn't|do not|don't|could not|couldn't|can't|cannot|never"),
    "couldn't": ("couldn't|could not|can't|cannot|couldn't|could not|can hardly|was unable to|failed to"),
    "didn't": ("didn't|did not|don't|do not|never|didn't once|never once"),
    "won't": ("won't|will not|won't ever|are not going to|are never going to|would not"),
    "doesn't": ("doesn't|does not|didn't|did not|never once did|doesn't ever|won't|will not"),
    "it's": ("it's|that's|it is|this is|it was|that was|the {thing} is"),
    "there's": ("there's|there is|there was|there are"),
    "anyone": ("anyone|anybody|people|critics|some people|a person"),
    "moment": ("moment|minute|second|scene|point"),
    "single": ("|single |single |single "),
    "who": ("nobody|no one|none of us|not one of my friends|no one in the audience|nobody in my family"),
    "parts": (
        "actors|jokes|scenes|characters|songs|effects|episodes|performances|twists|supporting cast|fight scenes"
        "|dance numbers|leads|child actors|dialogues|chases|gags|plot twists|villains|animals|minor characters"
        "|flashbacks|dishes|tracks|chapters|puzzles"
    ),
    "part": (
        "cast|first half|second half|ending|script|soundtrack|lead|direction|final act|dialogue|story|book|show"
        "|opening|climax|score|camera work|pacing|editing|animation|dubbing|romance|humor|first hour|last act"
        "|villain|hero|child actor|sequel|remake|photography|costumes|food|service|battery"
    ),
    "lead": (
        "|||||||||||||and |honestly, |i must say |for once |in short: |surprisingly |believe me, |this time "
        "|even so |to my surprise |and yet ||after two hours |as for me, |my wife says |to be fair, |luckily |"
    ),
    "tail": (
        "|||||||||||| from start to finish| in two hours| the whole time| in the whole film| in the second half"
        "| for a second| for a moment| for a minute| once| anywhere| to be found| {neutral}| {neutral}| {neutral}"
        "| {neutral}| for even a second| along the way| here| in this one| in its two hours| from beginning to end"
        "| at any point| in the bunch"
    ),
    "adj_adv": ("|||truly |even |quite |overly |remotely |at all |ever |even slightly "),
    "person": (
        "the hero|the lead|the director|the writer|the star|the villain|the actress|he|she|the main actor|the kid"
        "|the narrator|the singer|the author|the band|the cook|the waiter|the seller"
    ),
    "we": (
        "i|i|my wife|my son|my brother|the audience|my whole family|everyone around me|the critic next to me|my friend"
    ),
    "anyof": (
        "the actors|the songs|the jokes|the scenes|the characters|the effects|the episodes|the performances"
        "|the twists|the lines|the minor roles|the stories|the dishes|the tracks|the chapters|the features"
    ),
    "neutral": (
        "|||||on a rainy night|for a first film|for its time|considering the budget|given the subject|in my opinion"
        "|as far as i am concerned|to be honest|this time|i think|by the end|with my family|at home|in the cinema"
        "|after all these years|from beginning to end|as a whole|for me|in this one|in the entire series"
        "|by a newcomer"
    ),
}

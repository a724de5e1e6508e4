"""The words that `negation` puts into its patterns: of blame, of praise, and those that say neither."""

WORDS = {  # (of blame, of praise)
    "adjective": (
        "bad|boring|dull|awful|terrible|stupid|silly|predictable|slow|weak|poor|horrible|annoying|ridiculous|ugly"
        "|flat|lazy|cheap|disappointing|tedious|pointless|confusing|mediocre|unfunny|lame|shallow|bland"
        "|forgettable|painful|pretentious|clumsy|empty|dreadful|messy|unconvincing|offensive|wooden|cheesy"
        "|tiresome|lifeless|trite|sappy|corny|contrived|sluggish|muddled|uninspired|hackneyed|vulgar|crude|mean"
        "|nasty|preachy|monotonous|sloppy|unpleasant|depressing|unbearable|laughable|overlong|unnecessary|generic"
        "|stale|tired|dated|phony|fake|forced|incoherent|incomprehensible|pathetic|tasteless|repetitive"
        "|exhausting|amateurish|irritating|obnoxious|insulting|lousy|horrendous|atrocious|dumb|lackluster|uneven"
        "|rushed|stilted|hollow|harsh|sad|dreary|drab|bleak|wrong|trashy|hokey|gross|heavy-handed|one-dimensional"
        "|mindless|nonsensical|useless|worthless|insipid|dry|noisy|overdone|overrated|grating|sentimental"
        "|melodramatic|disgusting|long|manipulative|derivative|obvious|cold|frustrating|a waste|a letdown"
        "|too long|too slow|too silly|overacted|miscast|patronizing|tacky|rude|greasy|overpriced|dirty|broken"
        "|flimsy|damaged|cramped|buggy|defective|uncomfortable|blurry|soggy|burnt|unfriendly|unhelpful|unreliable"
        "|faulty|smelly|crowded|filthy|hard to follow|hard to use|a chore|a drag|a bore|a mess|soulless|charmless"
        "|humorless|witless|aimless|joyless|rambling|plodding|mawkish|maudlin|smug|condescending|self indulgent"
        "|mean spirited|cynical|cliched|formulaic|unoriginal|bloated|padded|jarring|clunky|shoddy|inept|syrupy"
        "|cloying|stuffy|creaky|moronic|idiotic|ludicrous|absurd|gratuitous|exploitative|offputting|grim|gloomy"
        "|shrill|whiny|bitter|creepy|stiff|robotic|unwatchable|unreadable|misleading|inaccurate|disjointed"
        "|convoluted|choppy|anemic|listless|limp|feeble|tame|lukewarm|desperate|overwrought|overblown|excessive"
        "|unimaginative|uninteresting|unconvinced|unfair|careless|a gimmick|a cash grab|a ripoff|an ordeal"
        "|a nightmare|a problem|an insult",
        "good|great|funny|interesting|exciting|clever|convincing|beautiful|entertaining|original|enjoyable"
        "|impressive|moving|fun|memorable|wonderful|smart|scary|special|excellent|brilliant|touching|gripping"
        "|amusing|charming|fascinating|engaging|perfect|amazing|likable|inspired|deep|witty|subtle|realistic"
        "|thrilling|hilarious|believable|fresh|powerful|superb|delightful|terrific|fantastic|marvelous|compelling"
        "|captivating|absorbing|lovely|gorgeous|stunning|sharp|intelligent|thoughtful|poignant|tender|heartfelt"
        "|warm|inventive|imaginative|creative|refreshing|outstanding|remarkable|extraordinary|satisfying"
        "|uplifting|inspiring|authentic|honest|intense|suspenseful|riveting|mesmerizing|haunting|dazzling|lively"
        "|sweet|cute|cool|elegant|graceful|sincere|sophisticated|insightful|profound|rich|vivid|spectacular"
        "|breathtaking|magical|hypnotic|energetic|worthwhile|rewarding|pleasant|humorous|credible|coherent"
        "|polished|well acted|well written|nice|worth seeing|worth your time|right|effective|masterful"
        "|unforgettable|cohesive|a success|a surprise|on target|enchanting|friendly|fast|tasty|clean|helpful"
        "|comfortable|polite|sturdy|reliable|bright|quick|delicious|juicy|quiet|affordable|easy to use|prompt"
        "|attentive|useful|durable|flavorful|professional|welcoming|well made|worth the money|a joy|a pleasure"
        "|a delight|a treat|soulful|joyful|gentle|ingenious|daring|bold|innovative|nuanced|layered|complex"
        "|well crafted|well paced|cheerful|endearing|lovable|sympathetic|romantic|sexy|provocative|challenging"
        "|illuminating|informative|revealing|mature|stylish|sleek|slick|smooth|solid|strong|gifted|talented"
        "|radiant|luminous|lyrical|poetic|wise|fascinated|electrifying|exhilarating|invigorating|addictive"
        "|hypnotizing|disarming|winning|infectious|offbeat|quirky|a bargain|a find|a keeper|a classic"
        "|in any way special|worth a second look",
    ),
    "comparative": (
        "worse|duller|more boring|more stupid|weaker|sillier|more tedious|poorer|less funny|less interesting"
        "|uglier|lazier|sadder|rougher|slower|cheaper|more annoying|more confusing|more painful|more pointless"
        "|less convincing",
        "better|funnier|more exciting|more moving|smarter|more beautiful|stronger|more enjoyable|scarier|finer"
        "|sweeter|warmer|cleverer|wittier|livelier|lovelier|more gripping|more touching|more convincing"
        "|more original|more interesting|more memorable|more satisfying",
    ),
    "verb": (
        "hate|dislike|despise|regret|resent|loathe|detest|mock|complain about|hate watching|be sorry about|be sick of",
        "like|enjoy|love|recommend|admire|care for|adore|appreciate|value|praise|treasure|enjoy watching|fall for"
        "|believe in|warm to|laugh at",
    ),
    "past": (
        "hated|disliked|regretted|suffered through|resented|loathed|detested|complained about|yawned at"
        "|groaned at|got sick of|got bored with|got tired of|cursed",
        "liked|enjoyed|loved|admired|laughed at|adored|appreciated|praised|treasured|fell for|believed in"
        "|warmed to|had fun with|was moved by|cared about|was impressed by",
    ),
    "noun": (
        "flaws|mistakes|weak scenes|clichés|dull moments|bad jokes|failures|problems|faults|waste of time"
        "|nonsense|sentimentality|padding|clumsiness|stupidity|laziness|boredom|bad acting|bad taste|preaching"
        "|vulgarity|filler|cheap thrills|silliness|melodrama|confusion|schmaltz|pretension|errors|goofs|gaps"
        "|trash|cruelty|shortcomings|defects|drawbacks|bad writing|weaknesses|failings|missteps|lulls|holes"
        "|cheap sentiment|cheap gags|gimmicks|bugs|glitches|delays|crashes|complaints|hidden fees|grease|noise"
        "|dirt|filler material|dead air|stereotypes|bathos|hysterics|posturing|moralizing|cheese"
        "|gore for its own sake|gratuitous violence|cynicism|shouting|overacting|loose ends|rough edges"
        "|wrong notes|self importance|smugness|speeches|product placement|cheap shots|tired jokes|toilet humor"
        "|tedium|misery|condescension|bitterness|trouble|hassle|greed|drudgery",
        "charm|wit|humor|suspense|heart|tension|talent|good jokes|originality|warmth|surprises|depth|magic"
        "|passion|inspiration|beauty|imagination|intelligence|excitement|energy|life|feeling|sparkle|atmosphere"
        "|chemistry|subtlety|credibility|fun|style|grace|emotion|merit|class|flair|appeal|elegance|honesty|wisdom"
        "|spirit|quality|meaning|ideas|thrills|laughs|flavor|help|kindness|comfort|value|spice|freshness|taste"
        "|care|courtesy|humanity|rhythm|momentum|mystery|romance|irony|poetry|spontaneity|vitality|verve|punch"
        "|bite|tenderness|compassion|sincerity|character|backbone|substance|logic|coherence|direction|purpose"
        "|personality|soul|guts|edge|originality of its own|redeeming value|good ideas|real feeling"
        "|genuine laughs|convincing characters|entertainment value|artistry|craft|finesse|polish|ambition|nuance",
    ),
    "judgement": (
        "disaster|failure|mess|bore|bad film|waste of time|bad movie|dud|flop|turkey|bomb|train wreck|letdown"
        "|disappointment|bad joke|chore|stinker|fiasco|clunker|catastrophe|embarrassment|snooze|cheap copy"
        "|failed experiment|rip off|insult|slog|drag|cash grab|ripoff|nightmare|ordeal|lemon|con|gimmick|loser"
        "|debacle|mistake|bad buy|scam|vanity project|mere copy|yawn|hack job|wreck|eyesore|headache"
        "|tearjerker of the cheap kind|lazy sequel|sad excuse for a film|piece of junk|piece of trash|cop out"
        "|missed opportunity|guilty waste|misfire|snoozefest",
        "masterpiece|triumph|classic|delight|good film|great movie|joy|success|gem|treasure|winner|hit|charmer"
        "|work of art|marvel|great comedy|must see|crowd pleaser|thrill ride|revelation|good movie|pleasure|feast"
        "|fine drama|surprise|wonder|treat|great film|bargain|keeper|find|hit with us|dream|success story"
        "|home run|knockout|tour de force|little wonder|page turner|laugh riot|charming tale|feel good film"
        "|instant classic|modern classic|good buy|good deal|must have|gift|blast|hoot|roller coaster|great book"
        "|great place|lovely evening|work of genius|worthy sequel|class act|touching story|good time"
        "|five star meal",
    ),
    "flaw": (
        "flaw|false note|weak scene|dull moment|boring scene|wasted minute|bad performance|misstep|plot hole"
        "|cliché|mistake|slow moment|cheap trick|bad line|wrong note|weak spot|loose end|lull|clumsy line"
        "|wasted word|weak performance|dull scene|boring second|bad scene|tedious minute|hole in the plot|blemish"
        "|weakness|shortcoming|defect|error|goof|weak link|dead spot|hiccup|bad note|bum note|lame joke|bad apple"
        "|stupid line|awkward scene|awkward moment|cheap shot|lapse|low point|clunker|bad joke|bad shot|failing"
        "|forced laugh|silly scene|wooden actor|complaint|problem|fault|bad seed|wasted frame|ugly shot"
        "|clumsy scene|phony moment|bad minute|lazy scene|false move|rough edge|trite line|bug|glitch|crash"
        "|scratch|dent|delay|rude word|cold dish|stain|broken part|typo|hitch|snag|nuisance|slip|blunder|crack"
        "|bump|empty phrase|tedious page|boring chapter|wasted page|weak track|bad song|stale joke|sour note"
        "|jarring note|unnecessary scene|clunky line|yawn|stumble|gaffe|fumble|dud|wasted shot|dead moment"
        "|trace of boredom|hint of laziness|reason to leave|unfair trick|cheap laugh|bad angle|weakness of note"
        "|hint of sentimentality|dreary minute|dull line|dull page|moment of boredom|whiff of pretension|bad word"
        "|bad review|bad meal|bad experience|unhappy customer|lazy line|ounce of padding|groan|bad thing"
        "|negative thing|lost minute|rude waiter|bit of filler|idle moment|flat joke|flat note|wooden line"
        "|irritating character|stupid twist|painful scene|weak chapter|throwaway scene|miscast actor|wasted day"
        "|cross word|single error",
        "laugh|good joke|funny line|memorable scene|clever idea|surprise|likable character|convincing performance"
        "|good scene|original thought|interesting moment|exciting scene|good performance|moving moment|smile"
        "|redeeming quality|touching moment|witty line|great scene|believable character|thrill|good idea"
        "|fresh joke|chuckle|spark|gag that works|stroke of genius|fine moment|original idea|clever line"
        "|decent performance|decent actor|real laugh|good line|interesting character|real scare|moment of beauty"
        "|clever twist|beautiful shot|great song|moment of tension|strong point|strength|virtue|reason to watch"
        "|highlight|bright spot|saving grace|flash of wit|genuine emotion|believable moment|funny moment|scare"
        "|honest emotion|memorable line|positive thing|good thing|good actor|fun moment|friendly face"
        "|helpful word|fresh idea|tasty dish|useful feature|tasty bite|good song|good chapter|catchy tune"
        "|believable line|nice touch|warm moment|inspired moment|spark of life|hint of talent|reason to come back"
        "|reason to care|kind word|clean table|ounce of wit|ounce of charm|shred of talent|shred of dignity"
        "|trace of wit|hint of humor|glimmer of hope|moment of joy|moment of truth|whiff of originality"
        "|flicker of life|good meal|good review|happy customer|nice thing|worthwhile scene|exciting minute"
        "|exciting page|decent scene|decent song|decent meal|tense scene|human being|memorable tune|new idea"
        "|laugh worth the name|good chase|good twist|reason to stay|scene with any life|smart line"
        "|shot worth looking at|joke that lands|good scare|clean room|useful answer|good hour|ray of light",
    ),
    "flaws": (
        "complaints|regrets|flaws|plot holes|disappointments|dull stretches|boring parts|weak links|clichés"
        "|mistakes|cheap tricks|slow parts|false notes|objections|weaknesses|faults|bad performances|dead spots"
        "|stupid twists|silly jokes|wasted scenes|lazy moments|shortcomings|defects|errors|goofs|lulls|weak spots"
        "|problems|awkward scenes|holes|quibbles|gripes|letdowns|rough edges|pitfalls|low points|bad jokes"
        "|bad actors|bad lines|lame jokes|drawbacks|wasted minutes|forced laughs|boring scenes|missteps"
        "|wrong notes|failings|bad scenes|annoying characters|dull moments|loose ends|problems at all|bad moments"
        "|hiccups|bugs|glitches|crashes|delays|scratches|hassles|issues|hidden costs|hidden fees|stains|typos"
        "|hitches|snags|blunders|slips|empty phrases|tedious pages|wasted pages|weak tracks|stale jokes"
        "|sour notes|clunky lines|stumbles|gaffes|duds|dead moments|cheap laughs|bad surprises|nasty surprises"
        "|bad meals|bad experiences|unhappy customers|flat jokes|wooden actors|irritating characters"
        "|painful scenes|filler scenes|filler tracks|groans|yawns|excuses|cop outs|contrivances|coincidences"
        "|caricatures|stereotypes|crude jokes|fart jokes|cardboard characters|dropped threads|errors of fact"
        "|rude waiters|cold dishes|long waits|bad habits|cheesy lines|tears of boredom|downsides|cons|negatives"
        "|misfires|detours|slumps|empty seats in my heart|signs of laziness|signs of fatigue|wasted words"
        "|tired gags",
        "surprises|laughs|thrills|good jokes|redeeming qualities|memorable scenes|charm|wit|heart|suspense"
        "|good ideas|likable characters|tension|originality|style|soul|energy|chemistry|depth|clever twists"
        "|great scenes|delights|highlights|strengths|merits|virtues|good scenes|good performances|sparks|chuckles"
        "|real scares|clever lines|good lines|great moments|funny lines|exciting scenes|ideas|fun moments"
        "|decent actors|interesting characters|good qualities|strong points|touching moments|fine performances"
        "|bright spots|magic|good reasons to watch|emotions|insights|fresh ideas|tasty dishes|useful features"
        "|catchy tunes|nice touches|warm moments|inspired moments|signs of life|signs of talent"
        "|reasons to come back|reasons to care|kind words|good meals|happy customers|worthwhile scenes"
        "|tense scenes|human beings|memorable tunes|new ideas|genuine laughs|good chases|good twists|good scares"
        "|clean rooms|useful answers|smart lines|people to care about|sparks between the leads|pleasures|rewards"
        "|upsides|positives|good points|plus points|redeeming features|moments of beauty|moments of joy"
        "|moments of truth|insights of its own|friendly faces|helpful people|winning performances|jokes that work",
    ),
    "fail": (
        "drag|disappoint|bore|fall flat|lose steam|overstay its welcome|let you down|waste your time|fall apart"
        "|insult the audience|run out of ideas|feel forced|feel fake|feel too long|lose its way|get boring"
        "|get old|become tedious|become silly|annoy|stumble|sag|slow down|miss the mark|ring false|grate|tire"
        "|lose the viewer|take itself too seriously|resort to cheap tricks|wear thin|go wrong|hit a false note"
        "|look cheap|fail|irritate|frustrate|offend|pander|preach|cheat|meander|ramble|dawdle|plod|crumble"
        "|collapse|flounder|flop|fizzle|stall|wander|overdo it|go overboard|overreach|repeat itself"
        "|talk down to us|let up|go stale|become boring|become annoying|become dull|feel dull|feel stale"
        "|feel dated|feel rushed|lose momentum|lose focus|lose interest|bog down|get stuck|fall into cliché"
        "|sink into sentiment|descend into farce|hurt|wear out its welcome|outstay its welcome|trip up|sell out"
        "|disgust|suck|stink|backfire|seem silly|seem fake|seem forced|become a mess|turn sappy|turn preachy"
        "|feel like a lecture|make you cringe|ruin the mood|spoil the fun|embarrass itself|look fake|look silly"
        "|drag on|grow tiresome|bore us|lose me|disappoint me|let me down|disappoint us|get lost|drag its feet"
        "|hit a wrong note|run out of steam|lose its nerve|lose its edge|lose its grip|lose its charm"
        "|go off the rails|go downhill|go nowhere|come off as fake|come off as smug|come across as cheap"
        "|feel padded|feel like a chore|feel like homework|feel preachy|feel contrived|feel stuffy"
        "|feel fake to me|feel wrong|get tedious|get silly|get bogged down in details|get on your nerves"
        "|get on my nerves|get in the way|get too cute|get too long|get out of hand|make a false move"
        "|make a mistake|put a foot wrong|put me to sleep|put you to sleep|put you off|talk down to you"
        "|talk down to its audience|treat you like an idiot|treat us like fools|cheapen itself|disgrace itself"
        "|wallow in misery|wallow in sentiment|dumb things down|play it safe|phone it in|rush things"
        "|outlive its welcome|test your patience|try your patience|grate on you|spoil anything|bore anyone"
        "|offend anyone|disappoint anyone|bother me|scare you off|make me wince|make me yawn|make you groan"
        "|make you yawn|make you feel stupid|make you want to leave|leave you cold|leave a bad taste"
        "|leave you confused|lull you to sleep|break|crash|freeze|leak|overheat|jam|break down|stop working"
        "|wear out|cause trouble|cause problems|smell|cheat you|rip you off|rip off its source|embarrass anyone"
        "|cop out|condescend|moralize|sermonize|lecture you|beat you over the head|hammer its point home"
        "|collapse under its own weight|fall to pieces|fall short|miss a beat|skip a beat|lag|creak|wobble"
        "|unravel|derail|implode|founder|falter|flag|wilt|waver|droop|suffer|strain|stink up the place"
        "|wear you out|drive you mad|drive me crazy",
        "delight|surprise|convince|move you|come alive|come together|work|make sense|hold your attention|hold up"
        "|make you laugh|make you care|take off|find its voice|ring true|earn its ending|pay off|deliver|shine"
        "|thrill|touch you|get going|feel real|hit the mark|draw you in|reward your patience|engage|impress"
        "|entertain|grip|live up to the hype|live up to its promise|build any tension|rise above the average"
        "|look good|satisfy|enchant|charm|dazzle|amuse|captivate|inspire|excite|fascinate|soar|sparkle|succeed"
        "|connect|click|resonate|involve us|move me|move us|surprise us|add up|gel|catch fire|ignite|please"
        "|intrigue|win you over|win me over|grab you|grab me|stir the heart|make me laugh|make me smile"
        "|make us care|take flight|flow|stand out|sing|feel fresh|feel authentic|feel natural|seem real"
        "|give us a reason to care|touch the heart|rise to greatness|create suspense|hold together"
        "|keep you guessing|keep me interested|hold my interest|engage us|involve me|scare|scare anyone"
        "|bring a smile|become exciting|become funny|build to anything|show any wit|show any charm|show any heart"
        "|excel|work for me|hold a charge|do its job|do what it promised|do the book justice|last|fit|help"
        "|taste of anything|come to life|come into its own|come to a point|go anywhere|go deep|get off the ground"
        "|get under your skin|get better|get a laugh out of me|get me excited|get funny|feel alive"
        "|feel like a real film|feel earned|feel honest|make a point|make an impression|make me think"
        "|make you think|make you believe|make it worth your while|make me want more|leave an impression"
        "|leave a mark|leave you smiling|leave you satisfied|lift your spirits|lift off|raise a smile"
        "|raise a chuckle|raise the pulse|raise my pulse|break new ground|say anything new|find its rhythm"
        "|find its feet|find its way|hit home|hit its stride|land|land its jokes|keep its promises"
        "|keep its promise|keep me awake|keep you awake|keep us entertained|keep you hooked|quicken the pulse"
        "|warm the heart|warm my heart|speak to the heart|speak to me|reach the heart|stay with you"
        "|stick in the mind|pull you in|pull it off|suck you in|sweep you away|send a chill down your spine"
        "|add anything|offer anything new|offer any surprises|bring anything to the table|achieve its goal"
        "|catch your interest|catch my interest|hook me|grow on me|transcend its genre|sustain interest"
        "|develop any momentum|develop its characters|show us anything new|tell a good story"
        "|tell a coherent story|satisfy anyone|please anybody|amuse anyone|impress me|impress anyone"
        "|convince anyone|convince me|delight anyone|cohere|compel|surprise anyone|repay your time"
        "|justify its length|justify the price|justify its existence|earn our sympathy",
    ),
    "bored": (
        "bored|disappointed|annoyed|sorry|let down|irritated|cheated|insulted|put off|frustrated|offended|tired"
        "|lost|embarrassed|unhappy|upset|unsatisfied|dissatisfied|underwhelmed|disgusted|depressed|confused"
        "|exhausted|sick of it|tired of it|angry|appalled|unimpressed|put to sleep|distracted|sleepy|restless"
        "|disinterested|turned off|bothered|worried|ashamed|uncomfortable|irked|cold|fooled|misled|rushed|ignored"
        "|overcharged|ripped off|treated rudely|lectured|talked down to|left cold|left confused|left hungry"
        "|in doubt|in pain|repelled|alienated|worn out|weary|fed up|miserable|stressed|puzzled by the plot"
        "|baffled|skeptical|mad|grossed out|at a loss|aware of the time|impatient|desperate for the end"
        "|looking at the clock|looking at my watch|ready to leave|tempted to leave|yawning|shifting in my seat"
        "|fidgeting|ready to walk out|out of patience",
        "moved|entertained|impressed|convinced|surprised|thrilled|amused|touched|engaged|pleased|satisfied|happy"
        "|charmed|scared|interested|excited|captivated|delighted|fascinated|absorbed|involved|gripped|hooked"
        "|enchanted|intrigued|won over|inspired|dazzled|swept away|glad i saw it|on the edge of my seat"
        "|enthralled|enlightened|shocked by the twist|awed|blown away|drawn in|interested in anyone|invested"
        "|laughing|smiling|comfortable|welcome|well treated|well served|grateful|proud|eager for more|curious"
        "|enthusiastic|spellbound|transported|stirred|stunned|astonished|amazed|persuaded|seduced|touched by it"
        "|transfixed|mesmerized|riveted|at ease|on board|sold|in awe|in tears|in stitches|full"
        "|sure of its quality|fond of anyone|attached to anyone|rooting for anyone|keen to see more"
        "|keen to go back|eager to return|tempted to buy it|tempted to stay|ready for more"
        "|surprised by the ending|engrossed|immersed",
    ),
    "regret": (
        "regret it|regret this|regret watching it|complain|be sorry|be disappointed|be bored|feel cheated|hate it"
        "|want your money back|look at the clock|fall asleep|get tired of it|wish you had stayed at home"
        "|mind the length|want it to end|look away|feel let down|walk out|yawn|roll your eyes|check your watch"
        "|cringe|groan|fidget|doze off|lose interest|give up on it|get bored|get tired|tire of it|grow weary"
        "|demand a refund|ask for your money back|wish it were shorter|find it boring|find it dull|call it boring"
        "|suffer|have regrets|get restless|be annoyed|get annoyed|feel insulted|feel bored|want to leave"
        "|leave early|leave disappointed|be let down|go home unhappy|be offended|hate yourself|waste your time"
        "|waste your money|find anything better|ask for a refund|ask for our money back|want a refund"
        "|count the minutes|look at your watch|glance at my watch|reach for the remote|press fast forward"
        "|skip ahead|switch it off|turn it off|stop reading|put it away|send it back|return it|throw it away"
        "|feel bad about it|feel ripped off|feel tricked|feel foolish|feel guilty|feel lost|feel confused"
        "|feel uncomfortable|feel sorry for the actors|feel manipulated|feel talked down to|notice the time"
        "|notice the length|want to stop|want to turn it off|wish for less|wish it away|wish it would end"
        "|wish i had stayed home|wait for the end|long for the end|nod off|drift off|sigh|moan|wince|grumble"
        "|squirm|be upset|be unhappy with it|be let down by it|be put off|be offended by it|be left hungry"
        "|have a complaint|have a problem with it|have any trouble|have to wait|have second thoughts|have doubts"
        "|run into trouble|run into problems|lose patience|lose faith|lose the thread|get lost|get sick of it"
        "|get sleepy|get a headache|get cheated|find fault|find it slow|find it tedious|find it too long"
        "|find yourself yawning|hate the ending|dislike anyone|resent it|curse it|mock it|doubt them|doubt it"
        "|hear a bad word about it|hear anyone complain|waste a penny",
        "love this|enjoy it|laugh|be impressed|be entertained|want to see it again|remember it|be moved|care"
        "|smile|be surprised|have fun|have a good time|believe a word of it|feel anything|get excited"
        "|be glad you saw it|cheer|chuckle|be amused|find it funny|be captivated|fall in love with it"
        "|get involved|be delighted|be fascinated|recommend it|tell your friends to see it|be thrilled"
        "|shed a tear|believe it|have a great time|be charmed|care for anyone|root for anyone|be scared"
        "|find it interesting|find it exciting|leave happy|leave satisfied|be satisfied|get your money's worth"
        "|want a sequel|thank me|buy the dvd|feel good|see it twice|be happy with it|be pleased|be glad"
        "|be glad you bought it|be glad you came|be convinced|be engaged|be touched|be hooked|be carried away"
        "|be drawn in|be won over|be excited|come back|go back|go there again|buy it again|buy from them again"
        "|order it again|order again|use it again|want to return|want more|want to hear it again|watch it again"
        "|read it again|listen to it twice|look forward to more|think about it again|think of it afterwards|grin"
        "|giggle|crack a smile|clap|applaud|cry|gasp|jump|hold your breath|sit up|lean forward|hum the tunes"
        "|tap your feet|get hooked|get drawn in|get goosebumps|get a thrill|get emotional|get invested|feel moved"
        "|feel the tension|feel any sympathy|feel for anyone|feel welcome|feel at home|feel scared|feel inspired"
        "|feel refreshed|find a reason to stay|find it clever|find it moving|find it scary|find it amusing"
        "|find anything to enjoy|find much to like|have a good word for it|have any fun|have a laugh"
        "|learn anything|leave with a smile|leave the place happy|like anyone in it|like what you see"
        "|appreciate it|admire anyone|adore it|believe anyone|identify with anyone|sympathize with anyone"
        "|tip the waiter|thank the cook|give it five stars|remember it tomorrow|remember a single line",
    ),
    "fault": (
        "fault|criticize|complain about|object to|find anything wrong with|say anything bad about|find fault with"
        "|think of anything bad about|find a problem with|say a bad word about|find anything to criticize in"
        "|blame|find a flaw in|find a weak spot in|pick holes in|pick a hole in|poke holes in|quarrel with"
        "|quibble with|take issue with|take offense at|nitpick|accuse|knock|slam|bash|fault anything in"
        "|see anything wrong with|spot a mistake in|spot a flaw in|name a weakness of|think of a complaint about"
        "|have a bad word for|find a complaint about|point to a problem with|improve on|ask more of"
        "|bring myself to dislike",
        "praise|recommend|say anything good about|find anything to like in|think of anything good about|defend"
        "|find anything funny in|find a reason to see|find a good word for|find anything to admire in"
        "|find merit in|find beauty in|find anything clever in|find a virtue in|find a good scene in"
        "|see the point of|see the charm of|see the appeal of|name a virtue of|think of a reason to see"
        "|think of a compliment for|have a good word for|say a kind word about|find a compliment for"
        "|point to a highlight in|get excited by|get into|warm to|connect with|take pleasure in|take seriously"
        "|believe in|get through|sit through|finish|bring myself to like|bring myself to care about"
        "|stay awake through",
    ),
    "annoyed": (
        "annoyed|bored|irritated|disappointed|offended|bothered|disturbed|confused|exhausted|put off|tired|upset"
        "|ruined it for|depressed|frustrated|insulted|displeased|let down|distracted|angered|grated on|hurt"
        "|disgusted|failed|alienated|enraged|repelled|sickened|discouraged|inconvenienced|cheated|misled|rushed"
        "|ignored|overcharged|worried|wearied|wore out|troubled|puzzled|repulsed|embarrassed|stressed|appalled"
        "|threw off|lost|drove away",
        "moved|surprised|impressed|amused|touched|entertained|convinced|thrilled|interested|excited|won over"
        "|delighted|captivated|fascinated|charmed|pleased|inspired|gripped|dazzled|worked for|hooked|stirred"
        "|satisfied|intrigued|enchanted|scared|helped|welcomed|rewarded|involved|engaged|drew in|pulled in"
        "|made a fan of|persuaded|stayed with|spoke to|grabbed|stunned|astonished|enlightened|cheered up"
        "|comforted|reached|taught|shocked|rang true for|did it for|made an impression on",
    ),
    "word": (
        "complaint|bad word to say|negative word to say|objection|regret|bad thing to say|reason to complain"
        "|quibble|harsh word to say|bad thing to report|single gripe|quarrel with it|grievance|criticism to make"
        "|cross word to say|reservation|bone to pick|problem to report|issue to report|doubt about it"
        "|fault to name|negative comment",
        "good word to say|kind word to say|nice thing to say|word of praise|good thing to report|reason to stay"
        "|positive word to say|compliment to make|good memory of it|favorable thing to say|pleasant memory"
        "|reason to be glad|happy memory|positive comment|word of thanks|nice word|good reason to return"
        "|reason to keep it",
    ),
    "worst": (
        "worst|dullest|silliest|stupidest|most boring|weakest|cheapest|least funny|most tedious|ugliest|lamest"
        "|poorest|saddest|laziest|longest|slowest|sorriest|dreariest|clumsiest|rudest|least original"
        "|least convincing|least exciting|most annoying|most confusing|most predictable|most painful"
        "|most pretentious",
        "best|funniest|smartest|finest|most exciting|strongest|most moving|scariest|most original|cleverest"
        "|wittiest|sweetest|warmest|liveliest|richest|freshest|loveliest|boldest|most beautiful|most touching"
        "|most gripping|most clever|most memorable|most entertaining|most interesting|most convincing"
        "|most inspired",
    ),
    "dislike": (
        "dislike|complain about|criticize|regret|hate|be ashamed of|find fault with|complain of|be sorry about"
        "|object to|be embarrassed by|criticise|forgive|be angry about|apologize for|moan about|be annoyed by"
        "|mock|be bored by|frown at|roll your eyes at|cringe at|groan at|yawn at|wince at|grumble about"
        "|gripe about|nitpick|quarrel with|resent|fear|blame|be upset about|be disappointed by|be offended by"
        "|be put off by|sneer at|apologise for|fuss about|lament|bemoan|worry about|be confused by|cut|fix|skip"
        "|change in it or regret",
        "like|enjoy|recommend|laugh about|admire|love|get excited about|care about|remember|praise|cheer about"
        "|be excited by|smile at|appreciate|savor|treasure|cherish|be impressed by|be proud of|write home about"
        "|hold on to|be thankful for|rave about|laugh at|look forward to|root for|cheer for|delight in|marvel at"
        "|gasp at|applaud|celebrate|hold dear|be moved by|be touched by|be scared by|be amused by|be charmed by"
        "|be thrilled by|be grateful for|be glad about|feel good about|take home|hum afterwards"
        "|talk about afterwards|sink your teeth into|relish|chew on|hang on to|discover|fall for|shout about"
        "|get excited over",
    ),
    "quality": (
        "boredom|stupidity|sentimentality|laziness|cynicism|vulgarity|silliness|pretension|clumsiness|cruelty"
        "|self pity|malice|fat|flab|padding|nonsense|cliché|fakery|falseness|bad taste|schmaltz|weakness"
        "|arrogance|preachiness|contempt|phoniness|condescension|tedium|bombast|bluster|gloom|bitterness|despair"
        "|self importance|self indulgence|smugness|mean spiritedness|sloppiness|carelessness|incompetence|greed"
        "|filler|hot air|hype|gimmickry|mawkishness|treacle|melodrama|moralizing|preaching|false pathos"
        "|sensationalism|exploitation|tastelessness|rudeness|hostility|drudgery|monotony|repetition|bloat"
        "|confusion|fatigue|dishonesty|fear of silence|hysteria|irritation|stress|hassle|trouble",
        "wit|charm|humor|originality|warmth|intelligence|talent|style|imagination|suspense|tension|emotion|life"
        "|energy|subtlety|sense|credibility|beauty|grace|depth|joy|fun|excitement|passion|truth|insight"
        "|inspiration|chemistry|creativity|feeling|magic|class|vitality|verve|punch|spirit|mystery|romance|poetry"
        "|spontaneity|compassion|humanity|sincerity|honesty|tenderness|courage|daring|ambition|purpose|logic"
        "|coherence|clarity|elegance|wisdom|sympathy|kindness|flavor|flair|finesse|craft|artistry|invention"
        "|novelty|freshness|pace|rhythm|momentum|sparkle|heart|soul|personality|character|conviction|enthusiasm"
        "|sophistication|thrills|comfort|care",
    ),
    "ruin": (
        "ruin|spoil|waste|damage|destroy|kill|mar|undermine|hurt|butcher|botch|weaken|wreck|drag down|cheapen"
        "|sink|harm|sabotage|derail|overwhelm|distract from|overshadow|detract from|take away from|diminish"
        "|betray|dull|slow down|bog down|dilute|trivialize|let down|disgrace|insult|slow|stain|sour|break|burden",
        "improve|save|lift|enliven|rescue|redeem|enrich|elevate|help|brighten|strengthen|justify|honor|enhance"
        "|raise|carry|revive|transform|add to|enlarge|polish|sell|support|do justice to|bring to life|warm up"
        "|light up|liven up|spice up|perk up|make up for|hold up|energize|sharpen|deepen|ground|salvage",
    ),
    "adverb": (
        "badly|poorly|terribly|clumsily|stupidly|carelessly|lazily|cheaply|awkwardly|horribly|ineptly|painfully"
        "|pointlessly|sloppily|crudely|shoddily|dully|tediously|predictably|pretentiously|heavily|messily"
        "|unconvincingly|amateurishly|cynically|shabbily|woodenly|embarrassingly|foolishly|needlessly|annoyingly"
        "|ridiculously|weakly",
        "well|beautifully|brilliantly|cleverly|nicely|wonderfully|skillfully|smoothly|elegantly|superbly"
        "|gracefully|convincingly|carefully|perfectly|expertly|masterfully|deftly|tenderly|sensitively"
        "|intelligently|thoughtfully|imaginatively|stylishly|impressively|smartly|lovingly|delicately|subtly"
        "|vividly|confidently|memorably|admirably|charmingly|finely",
    ),
    "critic": (
        "a bore|a mess|a waste of time|a failure|a disaster|boring|dull|stupid|bad|terrible|awful|slow|too long"
        "|silly|weak|pretentious|predictable|a disappointment|overrated|worthless|trash|garbage|a stinker|a chore"
        "|a drag|a slog|a flop|a cash grab|a ripoff|a letdown|a dud|a joke|a nightmare|a bad film|cheap|lame|lazy"
        "|tedious|a snooze|unwatchable|confusing|pointless|a mistake|rubbish|shallow|predictable and dull"
        "|a bad idea|offensive|unfunny|too slow|a piece of junk|annoying|forgettable|mediocre",
        "a masterpiece|a classic|brilliant|great|funny|clever|a triumph|wonderful|hilarious|a work of art|a gem"
        "|original|excellent|good|scary|entertaining|moving|a success|the best film of the year|worth seeing"
        "|a joy|a delight|a treat|a hit|a must see|a great film|a winner|a revelation|charming|gripping|touching"
        "|fascinating|beautiful|smart|thrilling|powerful|superb|unforgettable|fresh|romantic|a good film"
        "|a good idea|profound|worth the hype|convincing|a pleasure|a bargain|special|enjoyable|delicious|amazing",
    ),
    "failing": (
        "dragging|boring us|boring anyone|becoming preachy|becoming dull|falling flat|falling apart"
        "|talking down to us|being dull|being preachy|wasting time|crashing|insulting anyone|overdoing it"
        "|getting lost|getting silly|resorting to clichés|resorting to cheap tricks|losing its way|losing steam"
        "|losing the viewer|losing my interest|taking itself too seriously|feeling rushed|feeling forced"
        "|feeling cheap|repeating itself|turning sappy|turning ugly|turning into a lecture"
        "|slipping into melodrama|sinking into sentiment|hitting a false note|putting a foot wrong"
        "|outstaying its welcome|breaking|failing|causing trouble|annoying me|embarrassing anyone|selling out"
        "|showing off|cheating|rambling|sagging|stumbling|stalling|missing a beat|disappointing anyone"
        "|disappointing me|offending anyone|dumbing it down|giving me a headache|wearing thin|wearing me out"
        "|spoiling anything",
        "delighting anyone|surprising anyone|making sense|moving anyone|moving me|making us care|making a point"
        "|making me laugh|being funny|being clever|touching the heart|building any tension|ringing true"
        "|engaging anyone|saying anything new|going anywhere|entertaining anyone|giving us a reason to care"
        "|working|coming alive|coming together|taking off|paying off|impressing me|convincing me"
        "|holding my attention|showing any wit|showing any heart|finding its feet|raising a smile"
        "|reaching the heart|earning its ending|scaring anyone|adding anything new|hitting the mark"
        "|keeping its promises|helping anyone|satisfying anyone|exciting anyone|living up to its name"
        "|rising above the average|doing the book justice",
    ),
    "failed": (
        "let me down|let us down|crashed|broken|failed me|failed us|disappointed me|bored me|annoyed me"
        "|fallen apart|caused any trouble|given me trouble|given us any problems|lost my interest|lost its appeal"
        "|lost its charm|gone wrong|made a bad film|made a mistake|made a false step|made me regret it|cheated me"
        "|frozen|frozen up|broken down|worn thin|worn out|gone stale|gone bad|grown old|grown dull|aged badly"
        "|become tiresome|frustrated me|overcharged us|wasted my time|insulted anyone|done anything wrong"
        "|disappointed anybody|put me to sleep|needed a repair|stopped working|gone out of style",
        "worked|worked for me|impressed me|helped|helped me|made me laugh|moved me|moved anyone"
        "|lived up to the hype|lived up to its name|delivered|improved|paid off|convinced me|saved me time"
        "|surprised me|pleased me|pleased anyone|touched me|won me over|made a good film|done anything right"
        "|gotten better|kept a promise|entertained me|thrilled me|made sense|been worth it|shown any talent"
        "|shown any improvement|earned my trust|said anything new|given us a reason to care|held my interest"
        "|aged well|grown on me",
    ),
    "feared": (
        "i feared|i was afraid|i was worried|i dreaded|i worried|we feared|everybody warned me"
        "|the critics complain|my brother grumbles|i had been warned|the skeptics claimed|i braced myself",
        "i hoped|i had hoped|i was hoping|we hoped|everybody promised|the poster says|the critics claim"
        "|my brother swears|i had been promised|the fans claimed|i was looking forward to it, thinking"
        "|the box promises",
    ),
    "fears": (
        "fears|worries|doubts|bad feelings|concerns|suspicions|reservations|misgivings",
        "hopes|expectations|dreams|high hopes|good feelings|wishes",
    ),
    "goods": (
        "rude|slow|cold|greasy|stale|overpriced|dirty|noisy|broken|cheap|flimsy|late|damaged|salty|too salty"
        "|too sweet|bland|cramped|buggy|defective|uncomfortable|stiff|heavy|blurry|tinny|scratched|burnt"
        "|undercooked|overcooked|soggy|dry|tough|unfriendly|unhelpful|sloppy|too expensive|unreliable|smelly"
        "|faulty|fragile|hard to use|difficult to set up|crowded|filthy|gross|greedy|pushy|arrogant|impatient"
        "|grumpy|incompetent|watery|rotten|lukewarm|worn|dim|laggy|clumsy|bulky|loud|painful|itchy|confusing"
        "|careless|rancid|stingy|small|shabby",
        "friendly|fast|fresh|tasty|clean|helpful|comfortable|polite|sturdy|reliable|bright|clear|quick|delicious"
        "|warm|juicy|tender|crisp|quiet|spacious|affordable|easy to use|easy to set up|prompt|attentive|courteous"
        "|useful|durable|safe|flavorful|honest|professional|welcoming|well made|worth the money|hot|generous"
        "|sharp|responsive|well trained|knowledgeable|cozy|light|smooth|soft|patient|competent|creamy"
        "|spicy enough|big enough|strong enough|good value|on time|accurate|elegant|pleasant|efficient|caring"
        "|roomy",
    ),
    "break": (
        "break|crash|freeze|leak|overheat|jam|fall off|fall apart|wear out|die on me|stop working|scratch|shrink"
        "|fade|rip|arrive late|arrive broken|get lost|cause trouble|slip|drop calls|cut out|lag|make noise|smell"
        "|hurt my ears|hurt my feet|cost too much|give me a headache|let me down|run hot|rattle|squeak|crack"
        "|come loose|come apart|rust|stain|lose its signal|lose its shape|lose its charge|burn|need repairs"
        "|disappoint|give up on me|act up|fail",
        "last|work|hold a charge|fit|stay on|stay cool|arrive on time|turn on|connect|charge|help|clean well"
        "|save me time|do its job|do what it promised|work as advertised|keep its charge|keep a signal|sound good"
        "|look nice|feel solid|hold up|protect the screen|make life easier|earn its price|taste good|fill you up"
        "|impress|start|ring loud enough|run smoothly|stay in place|match the picture|satisfy"
        "|come with instructions|play well",
    ),
    "treat": (
        "rush us|ignore us|insult us|overcharge us|keep us waiting|let us down|mess up our order"
        "|get our order wrong|forget our order|lose our luggage|lie to me|try to cheat me|argue with us"
        "|hang up on me|charge us extra|make us wait|make me feel unwelcome|make a fuss|make excuses"
        "|look down on us|pressure us|waste my time|roll their eyes|complain|shout at anyone|burn the food"
        "|disappoint us|give us trouble|break a promise|annoy us|bother us|push us to buy more",
        "help us|greet us|welcome us|thank us|listen to us|smile at us|smile|take care of us|apologize"
        "|answer the phone|answer my emails|call me back|solve my problem|fix the problem|give us a refund"
        "|keep their promise|keep their word|check on us|bring us water|make us feel welcome|make us feel at home"
        "|remember our names|go out of their way|explain anything|care about us|impress us|treat us well"
        "|serve us quickly|say hello|honor the warranty",
    ),
    "trouble": (
        "problems|trouble|delays|hassle|issues|complaints|crashes|defects|glitches|bugs|hiccups|scratches|leaks"
        "|mistakes|extra charges|hidden fees|noise|bad smells|lag|dropped calls|waiting|arguments"
        "|surprises on the bill|rudeness|fuss|difficulty|drama|dirt|hair in the food|stains|static|dead pixels"
        "|errors|excuses|long lines|headaches|stress",
        "help|service|flavor|benefit|value|good results|support|answers|apology|comfort|quality|taste|kindness"
        "|courtesy|respect|care|seasoning|freshness|success|sound quality|battery life|attention|welcome|smiles"
        "|refund|satisfaction|improvement|luck|point in going back|reason to return|pleasure|joy|advantages"
        "|good features",
    ),
    "glad": (
        "thankfully|luckily|fortunately|happily|mercifully|i am glad to say that|i'm happy to report that"
        "|what a relief:|thank god|thank heavens|for once|finally:|to my relief|to my delight|i was pleased that"
        "|it is nice that|good news:|gladly|happy to say",
        "sadly|unfortunately|alas|regrettably|i am sorry to say that|i'm sad to report that|what a pity:"
        "|i'm afraid that|once again|to my regret|disappointingly|to my dismay|i was upset that"
        "|it is a shame that|bad news:|i must complain:|sorry to say",
    ),
    "glad_end": (
        "thank god|thankfully|luckily|to my relief|which is a relief|which pleased me|happily|which was nice"
        "|what a relief|fortunately|to my delight",
        "sadly|unfortunately|alas|to my regret|which is a pity|which annoyed me|what a shame|sad to say"
        "|to my dismay|i'm afraid|i regret to say",
    ),
    "sad": (
        "sadly|unfortunately|alas|regrettably|i am sorry to say that|i'm sad to report that|what a pity:"
        "|i'm afraid that|once again|to my regret|disappointingly|to my dismay|i must complain:",
        "thankfully|luckily|fortunately|happily|i am glad to say that|i'm happy to report that|good news:"
        "|to my delight|it is nice that|as always|as hoped",
    ),
    "yawned": (
        "left early|complained|fell asleep|looked bored|fidgeted|groaned|booed|got lost|got hurt|was rude"
        "|was late|made a mistake|snored|sighed|sneered|grumbled|lost their temper|went home sad|felt cheated"
        "|checked a phone|squirmed|looked at a watch|gave up halfway|dozed off|winced|cringed|overacted"
        "|looked tired|looked embarrassed|lost patience|argued with us|overdid it",
        "laughed|clapped|cheered|smiled|came back|applauded|enjoyed it|had fun|helped|gasped|jumped|cared|grinned"
        "|giggled|looked happy|liked it|came out smiling|said thank you|sang along|asked for more|was impressed"
        "|wanted more|shed a tear|looked interested|seemed happy|convinced me|made an effort"
        "|knew what they were doing|had a good time|could act",
    ),
    "boredom": (
        "boredom|regret|annoyance|irritation|disappointment|frustration|embarrassment|disgust|a yawn|a groan"
        "|anger|impatience|unease|doubt|a complaint|weariness|a headache",
        "joy|excitement|interest|delight|pleasure|laughter|sympathy|suspense|admiration|a smile|a laugh|tension"
        "|wonder|warmth|emotion|a thrill|happiness",
    ),
    "flawed": (
        "flawed|spoiled|ruined|botched|bungled|wasted|damaged|weakened|marred by clichés|overcooked|broken"
        "|overdone|neglected|forgotten|thrown away|squandered|overplayed|mishandled|misjudged"
        "|let down by the cast|rushed through|missing",
        "earned|inspired|improved|thought through|well handled|well judged|explained well|developed|rewarded"
        "|redeemed|well served|brought to life|made interesting|made exciting|made believable|well cast|well used"
        "|put to good use|carried off|well executed",
    ),
}
NEUTRAL = {
    "thing": (
        "film|movie|story|plot|acting|script|ending|cast|music|humor|picture|dialogue|direction|show|comedy|book"
        "|sequel|remake|thriller|drama|documentary|cartoon|series|performance|screenplay|production|camera work"
        "|photography|soundtrack|romance|western|adaptation|premise|finale|episode|game|song|album|novel|phone"
        "|product|restaurant|service|hotel|app|store|meal|camera|laptop|headset|musical|biography|sitcom|short"
        "|play|concert|trailer|exhibition|horror film|mystery|fantasy|fable|debut|trilogy|podcast|essay|poem"
    ),
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
    "it's": "it's|that's|it is|this is|it was|that was|the {thing} is",
    "there's": "there's|there is|there was|there are",
    "anyone": "anyone|anybody|people|critics|some people|a person",
    "moment": "moment|minute|second|scene|point",
    "single": "|single |single |single ",
    "who": "nobody|no one|none of us|not one of my friends|no one in the audience|nobody in my family",
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
        "| {neutral}| for even a second| along the way| here| in this one| in its two hours"
        "| from beginning to end| at any point"
    ),
    "adj_adv": "|||truly |even |quite |overly |remotely |at all |ever |even slightly ",
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
        "|||||on a rainy night|for a first film|for its time|considering the budget|given the subject"
        "|in my opinion|as far as i am concerned|to be honest|this time|i think|by the end|with my family|at home"
        "|in the cinema|after all these years|from beginning to end|as a whole|for me|in this one"
        "|in the entire series|by a newcomer"
    ),
    "ware": (
        "phone|headset|charger|case|battery|camera|laptop|keyboard|app|blender|vacuum|tablet|printer|watch|jacket"
        "|car|lamp|razor|tv|speaker|router|backpack|mattress|cable|screen|bluetooth|software|update|microphone"
        "|pair of shoes|chair|toaster"
    ),
    "place": (
        "restaurant|hotel|store|shop|diner|café|bar|bakery|airline|garage|dentist|gym|salon|clinic|museum|spa|pub"
        "|pizza place|campsite|bank"
    ),
    "staff": (
        "waiter|waitress|staff|manager|cook|chef|driver|clerk|receptionist|seller|nurse|owner|mechanic|hostess"
        "|bartender|cleaner|plumber|teacher|guide|support team|salesman|crew|delivery man|barber"
    ),
    "dish": (
        "soup|pizza|steak|salad|burger|bread|coffee|fish|dessert|rice|sauce|chicken|breakfast|room|bed|view|lobby"
        "|pool|bathroom|bill|menu|table|wine|curry|cake|beer|buffet|fries|parking|shower"
    ),
    "setting": (
        "on a friday|after two weeks of use|for the price|in our room|when we visited|after a year"
        "|in three months|on the first day|during our stay|on our last visit|all week|out of the box|on my trip"
        "|during the whole flight|at lunch|so far|yet|since i bought it|in all these years|all evening|that night"
        "|even on a busy night|in five visits|even once|to this day"
    ),
    "result": (
        "but it never did|and it didn't|but it doesn't|and i was wrong|and that never happened"
        "|but that did not happen|but no|and it simply didn't|and it never did|but it did not|but it didn't"
        "|but nothing of the kind"
    ),
    "they": "they|they|the people there|the owners|the people at the desk|the new owners",
    "some": (
        "some|some people|many|my friends|others|the critics|the reviewers here|my neighbor|the papers"
        "|the internet|most people"
    ),
    "claim": "say|claim|complain|tell you|think|insist|wrote|said|argue|believe",
    "hours": (
        "two hours|ninety minutes|three hours|an hour and a half|four hundred pages|ten episodes|six seasons"
        "|the whole evening|the entire flight|two weeks|a whole year"
    ),
    "things": (
        "films|movies|stories|comedies|thrillers|sequels|remakes|dramas|books|shows|musicals|biographies"
        "|horror films|documentaries|cartoons|albums|games|products|phones|restaurants|hotels|shops|debuts"
    ),
}

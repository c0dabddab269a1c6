"""Words, remarks and replies of the conversation tasks, and the patterns by which the kind of a reply is known.

Text only; conversation.py puts turns together.
"""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.curriculum.names import NAMES


@dataclass(frozen=True, slots=True)
class Slot:
    """A fact a user may tell of themselves: its values, how it is told and asked for, how it is recalled, what it is called."""

    values: tuple[str, ...]
    tell: tuple[str, ...]
    ask: tuple[str, ...]
    reply: str
    noun: str


CALLED = NAMES
SLOTS = {
    "name": Slot(NAMES, ("My name is {v}.", "I'm {v}.", "I am {v}.", "Call me {v}.", "You can call me {v}.", "People call me {v}.", "{v} is my name.",
                         "By the way, my name is {v}.", "This is {v}."),
                 ("What is my name?", "What's my name?", "Do you remember my name?", "Which name did I tell you?", "What am I called?", "Tell me my name.",
                  "Can you say my name?", "what was my name again?"),
                 "Your name is {v}.", "name"),
    "color": Slot(("red", "blue", "green", "yellow", "purple", "orange", "pink", "black", "white", "brown", "gray", "gold"),
                  ("My favorite color is {v}.", "I like {v} best of all colors.", "{v} is my favorite color.", "The color I love is {v}.",
                   "I love the color {v}.", "I paint everything {v}."),
                  ("What is my favorite color?", "Which color do I like?", "What color do I love?", "Do you remember my favorite color?",
                   "Tell me my favorite color.", "what color was my favorite?"),
                  "Your favorite color is {v}.", "favorite color"),
    "pet": Slot(("cat", "dog", "rabbit", "parrot", "hamster", "turtle", "horse", "goldfish", "snake", "mouse"),
                ("I have a {v}.", "My pet is a {v}.", "At home I have a {v}.", "I own a {v}.", "I just got a {v}.", "There is a {v} at my home."),
                ("What pet do I have?", "Which animal do I own?", "Do you remember my pet?", "What animal is my pet?", "What kind of pet do I have?",
                 "Tell me what pet I have."),
                "You have a {v}.", "pet"),
    "city": Slot(("Paris", "London", "Rome", "Berlin", "Madrid", "Oslo", "Vienna", "Tokyo", "Cairo", "Lima", "Dublin", "Boston", "Athens", "Delhi"),
                 ("I live in {v}.", "My home is in {v}.", "The city I live in is {v}.", "I am at home in {v}.", "I moved to {v}.", "My city is {v}.",
                  "I have a flat in {v}."),
                 ("Where do I live?", "Which city is my home?", "What city do I live in?", "Do you remember where I live?", "Where is my home?",
                  "Tell me where I live."),
                 "You live in {v}.", "city"),
    "food": Slot(("pizza", "pasta", "rice", "soup", "salad", "bread", "cheese", "fish", "cake", "curry", "noodles", "pancakes"),
                 ("My favorite food is {v}.", "I love to eat {v}.", "I like {v} most of all dishes.", "What I like to eat is {v}.",
                  "I could eat {v} every day.", "The dish I love is {v}."),
                 ("What is my favorite food?", "What do I like to eat?", "Which food do I love?", "Do you remember my favorite food?", "What dish do I like?",
                  "Tell me my favorite food."),
                 "Your favorite food is {v}.", "favorite food"),
    "job": Slot(("teacher", "doctor", "nurse", "farmer", "pilot", "baker", "painter", "singer", "driver", "writer", "gardener", "lawyer"),
                ("I work as a {v}.", "I am a {v}.", "My job is {v}.", "I'm a {v} by trade.", "I earn my money as a {v}.", "I have been a {v} for years."),
                ("What is my job?", "What do I do for work?", "What do I work as?", "Do you remember my job?", "What is my work?", "Tell me my job."),
                "You work as a {v}.", "job"),
    "hobby": Slot(("chess", "tennis", "football", "reading", "dancing", "swimming", "cooking", "hiking", "painting", "singing", "fishing", "running"),
                  ("My hobby is {v}.", "I enjoy {v}.", "In my free time I like {v}.", "I spend my weekends with {v}.", "{v} is my hobby.",
                   "I am really into {v}."),
                  ("What is my hobby?", "Which hobby do I have?", "What do I like to do in my free time?", "Do you remember my hobby?",
                   "How do I spend my weekends?", "Tell me my hobby."),
                  "Your hobby is {v}.", "hobby"),
    "month": Slot(("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"),
                  ("My birthday is in {v}.", "I was born in {v}.", "I have my birthday in {v}.", "{v} is the month of my birthday.",
                   "I turn a year older in {v}."),
                  ("When is my birthday?", "In which month was I born?", "What month is my birthday?", "Do you remember my birthday?",
                   "Tell me the month of my birthday."),
                  "Your birthday is in {v}.", "birthday"),
}
ACKNOWLEDGEMENTS = ("Good to know: {v}.", "Thank you, I will remember {v}.", "{v}, noted.", "I will keep your {noun} in mind.", "Nice, {v}!", "Got it.",
                    "Thanks for telling me.")
CHANGES = ("Wait, I said that wrong. ", "Sorry, that was wrong. ", "Actually, I must correct that. ", "No, that is not right. ")
UNTOLD = ("You haven't told me your {slot} yet.", "I don't know your {slot}. You haven't told me.", "I don't know your {slot} yet.")

REMARKS = {
    "greeting": (("Hello", "Hi", "Hey", "Good morning", "Good evening", "Good afternoon", "Hi there", "Hello there", "Hey there", "Greetings", "Morning",
                  "Hello again"),
                 ("!", ".", ", nice to see you.", ", I am new here.", ", I'd like to talk.", ", are you there?", ", my friend.", " from me.",
                  ", can we chat?", ", it's me again.", ", how nice to meet you!", ", anyone home?")),
    "thanks": (("Thank you", "Thanks", "Thanks a lot", "Many thanks", "Thank you so much", "Cheers", "Thanks again", "I thank you", "Big thanks", "Thx"),
               ("!", ".", " for your help.", " for the answer.", ", that helped me.", ", that was great.", " for your time.", ", you are kind.",
                " for everything.", ", now I get it.", " for explaining.", ", that is all I need.")),
    "farewell": (("Bye", "Goodbye", "See you", "Good night", "Bye bye", "Farewell", "See you later", "I have to go", "I must leave now", "Talk to you later",
                  "Time to sleep"),
                 ("!", ".", ", my friend.", ", until tomorrow.", ", take care.", ", it was nice.", ", and thanks.", ", till next time.",
                  ", dinner is ready.", ", it is late.")),
    "mood": (("How are you", "How do you do", "How is it going", "How are you doing", "How do you feel", "How have you been", "Are you well",
              "Is everything fine", "How are things", "Are you okay"),
             ("?", " today?", " this morning?", ", dear?", ", friend?", " these days?", ", my friend?", ", may I ask?", " so far?", ", by the way?")),
    "sympathy": (("I am sad", "I feel bad", "I'm so tired", "I am unhappy", "I feel lonely", "I could cry", "I'm worried", "I am afraid", "My day was awful",
                  "I feel down", "I'm upset", "I had a bad day", "I feel terrible", "I am stressed", "I'm not okay", "Today was hard", "I feel sick",
                  "I'm depressed", "I had a rough week", "I feel so alone"),
                 (".", " because I lost my keys.", " because my cat is ill.", ", I failed my test.", ", nobody called me.", " since my friend moved away.",
                  " because it rains all day.", ", my bike was stolen.", " today.",
                  " because I missed the bus.", ", my phone is broken.", " and I can't sleep.")),
    "joy": (("I am so happy", "Great news", "Guess what", "I'm over the moon", "I can't stop smiling", "What a day", "I feel great", "Good news",
             "I am proud", "Hooray"),
            (": I passed my test!", ": I got the job!", ": we won the game!", ": my sister had a baby!", ": I found my keys!", ": I bought a house!",
             ": my team came first!", ": I am getting married!", ": I won a prize!",
             ": I finished my book!", ": I learned to swim!")),
    "ability": (("Can you help me", "What can you do", "Who are you", "Are you a human", "Are you a robot", "What are you", "Are you a machine",
                 "Are you real", "Do you have a body", "Tell me about yourself", "Am I talking to a person"),
                ("?", ", please?", " really?", ", tell me?", " exactly?", ", my friend?", ", by the way?", ", in short?", ", honestly?")),
    "apology": (("Sorry", "I am sorry", "My mistake", "I apologize", "Excuse me", "Pardon me", "My apologies", "Oh no, sorry", "Forgive me"),
                (".", "!", ", I was rude.", ", I am late.", ", I was slow.", ", I forgot to answer.", ", I made an error.", ", I asked twice.",
                 ", I typed it wrong.", ", I was loud.", ", that was my fault.")),
}
REMARKS["joke"] = (("Tell me a joke", "Do you know a joke", "Make me laugh", "Say something funny", "I want to hear a joke", "Can you tell a joke", "A joke",
                    "Give me a joke", "Another joke", "Cheer me up with a joke", "Know any jokes", "Got a joke for me"),
                   ("!", ".", "?", ", please.", " now.", ", if you can.", " for the kids.", ", my friend.", ", friend.", " right away.", " for my party."))
REPLIES = {
    "joke": ("Why did the pencil go to school? To stay sharp.", "What do you call a sleeping bull? A bulldozer.",
             "Why did the clock get sick? It was run down.",
             "What do you call a bear in the rain? A drizzly bear.", "Why did the cookie see a doctor? It felt crummy."),
    "greeting": ("Hello! How can I help you?", "Hello! Nice to see you.", "Hi! What can I do for you?"),
    "thanks": ("You're welcome!", "You're welcome, glad to help."),
    "farewell": ("Goodbye! Take care.", "Goodbye! See you soon."),
    "mood": ("I'm fine, thank you. How are you?", "I'm doing well, thanks for asking."),
    "sympathy": ("I'm sorry to hear that.", "I'm sorry to hear that. I hope it gets better."),
    "joy": ("Congratulations! That is great.", "That is great, congratulations!"),
    "ability": ("I'm a small language model, and I try to help.", "I'm a language model. Ask me something."),
    "apology": ("No problem at all.", "No problem, don't worry."),
    "unknown": ("I'm sorry, I can't know that.", "I don't know that, sorry."),
}
KIND_PATTERNS = {
    "joke": r"\b(why (did|does|do(?! you\b| we\b|n't)|don't(?! you\b| we\b))|what do you call|knock,? knock)",
    "greeting": r"\b(hello|hi|hey|greetings|good (morning|evening|afternoon)|(nice|good|great|pleased|glad) to (see|meet))\b",
    "thanks": r"\b((you're|you are) (very |most )?welcome|(glad|happy) to help|any ?time|my pleasure|don't mention it|no problem|not at all)\b",
    "farewell": r"\b(goodbye|bye|see you|take care|good night|farewell|talk (to you )?(soon|later)|until (tomorrow|next time))\b",
    "mood": r"\b((i'm|i am|doing|feeling|all|going) (doing |feeling |very |really |quite |just |all )*(fine|well|good|great|okay|ok)"
            r"|(fine|well|good|great|okay),? thank)",
    "sympathy": r"\b(sorry (to hear|about|for you|that you|you)|so sorry|(that is|that's|that sounds|how) (so |very |really )?(sad|hard|bad|tough|awful)"
                r"|oh no|hope (it gets|you feel) better)\b|\bi'm sorry[.!]?$",
    "joy": r"\b(congratulations|congrats|well done|(that is|that's|how|what) (great|good|wonderful|nice|amazing|awesome|fantastic)"
           r"|(happy|good) for you|(great|good) news)\b",
    "ability": r"\b(language model|assistant|(try|here) to help|i can help|(i'm|i am) an? (small |friendly )?(ai|bot|chatbot|robot|program|computer))\b",
    "apology": r"\b(no problem|no worries|no harm|(don't|do not) worry|(that's|that is|it's|it is) (okay|ok|fine|all right|alright|nothing)|never mind"
               r"|no need to apologi[sz]e)\b",
    "unknown": r"((n't|\bnot|\bcannot|\bnever|\bunable to|\bno way (to|of)|\bnot able to) (yet )?"
               r"(know|knowing|tell(?! (an? )?(lies?|jokes?|story|stories)\b)|told|said|mentioned)"
               r"|\bno (idea|information)|n't have (access|any way|a way|that))\b",
}
# Forms of a kind beside those of KIND_PATTERNS that don't speak against another: "You're welcome, have a nice day!" stays a reply to thanks.
MORE_FORMS = {
    "farewell": r"\b(see ya|have an? (nice|good|great|lovely|wonderful|pleasant) (day|evening|night|afternoon|weekend|week|one|time)|so long|ciao|bye-bye"
                r"|till (tomorrow|then|next time|later)|until (then|later)|sleep well|sweet dreams|catch you later|later!)",
    "mood": r"\b(not (too |so |that )?bad|can't complain|never better|(i'm|i am|doing|feeling) (pretty|fantastic|wonderful|excellent|alright|all right))\b",
    "sympathy": r"\b((that|this|it) (must|has to|sounds|feels|is) (be |have been |feel |like )?(so |very |really |quite )*"
                r"(sad|hard|bad|tough|awful|difficult|rough|terrible|horrible|painful|lonely|frustrating|stressful|upsetting)|i feel for you|hang in there"
                r"|i'm here for you|my condolences|poor you|that's rough)\b",
    "joy": r"^(oh|wow|yay|hooray|\W)*(so |really |absolutely |simply |just |how )*(fantastic|amazing|awesome|wonderful|brilliant|excellent|superb|terrific"
           r"|incredible)\b|\b(happy|glad|pleased|delighted|thrilled) (for you|to hear)|\bproud of you\b",
    "unknown": r"((n't|\bnot|\bcannot|\bnever|\bunable to) (yet |really |quite |be |so |entirely |completely )*(say|sure|answer|guess|certain)\b)"
               r"|\bhow (should|would|could|can) i know\b|\b(hard|impossible) (for me )?to (know|say|tell)\b|\bno (clue|way of knowing)\b|\bbeats me\b",
}
LINE_PATTERNS = {
    "birthday": r"\bhappy birthday\b", "luck": r"\bgood luck\b(?! wish\b)", "well": r"\bget well\b(?! wish\b)", "thank": r"\b(thank you|thanks)\b(?! note)",
    "invite": r"\b(please come|join (me|us)|(are|you're) invited|invite you)\b", "welcome": r"\bwelcome\b(?! line)",
    "trip": r"\b((good|safe|nice|great) (trip|journey|travels)|bon voyage)\b", "night": r"\b(sleep well|sweet dreams|good night)\b(?! line)",
}
# Words that are no names or months as they stand: "I will", "May I ask?", "haven't".
NO_VALUES = r"\b(\w+n't|will|may|march|mark|grace|frank|rose|bill|sue|dean|(?:Will|May)(?= (?:I|you|we)\b))\b"
INTRODUCTIONS = ("{hello}, I'm {name}.", "{hello}, my name is {name}.", "{hello}! {name} here.", "{hello}, this is {name}.",
                 "{hello}. I am {name}, nice to meet you.", "{hello}, you can call me {name}.",
                 "{hello}! I am called {name}.", "{hello}, {name} is my name.")
MEETINGS = ("Hello {name}! Nice to meet you.", "Hello {name}! How can I help you?")

WORDS = ("red", "blue", "small", "big", "old", "new", "warm", "cold", "soft", "dark", "cat", "dog", "house", "tree", "river", "moon", "star", "bread",
         "chair", "road", "cloud", "garden", "window",
         "music", "paper", "stone", "summer", "winter", "morning", "water")
ECHOES = ("Repeat after me: {phrase}", "Say: {phrase}", "Please repeat: {phrase}", "Say the words: {phrase}", "Write this down: {phrase}",
          "Repeat this: {phrase}", "Can you say \"{phrase}\"?", "Copy these words: {phrase}",
          "Echo: {phrase}", "Type exactly this: {phrase}", "Now say \"{phrase}\".", "Just answer: {phrase}",
          "Repeat: {phrase}", "Write: {phrase}", "Your answer is to be: {phrase}", "Reply with these words: {phrase}", "Only say \"{phrase}\", please.",
          "Give me back these words: {phrase}", "I want you to say: {phrase}", "Could you repeat \"{phrase}\"?", "Copy: {phrase}",
          "Write the words \"{phrase}\".", "Say it after me: {phrase}", "Answer with: {phrase}")
COUNTS = ("Count from {a} to {b}.", "Can you count from {a} to {b}?", "Please count from {a} up to {b}.", "Say the numbers from {a} to {b}.",
          "List the numbers {a} to {b}.", "Give me all numbers from {a} to {b}.",
          "Count up: {a} to {b}", "Write the numbers from {a} to {b}.", "Count {a} to {b}.", "Start at {a} and count to {b}.",
          "Would you count from {a} to {b}?", "Name the numbers from {a} to {b}.", "I want to hear you count from {a} to {b}.",
          "Numbers from {a} to {b}, please.",
          "Begin with {a} and stop at {b}.", "Show me the numbers {a} to {b}.", "Which numbers go from {a} to {b}?", "Count for me from {a} until {b}.",
          "Type the numbers from {a} through {b}.", "Go from {a} up to {b}, one by one.", "From {a} to {b}, count!", "Let us count from {a} to {b}.",
          "Do you know how to count from {a} to {b}?", "Print {a} to {b}.")
CHOICES = (
    ("tea", "water", "milk", "juice", "soup"), ("pizza", "pasta", "rice", "soup", "salad"), ("red", "blue", "green", "yellow", "black"),
    ("tennis", "chess", "football", "dancing", "swimming"), ("the bus", "the train", "a taxi", "the bike", "the car"),
    ("a book", "a film", "a game", "a walk", "a nap"), ("apples", "pears", "plums", "grapes", "cherries"),
)
EITHER = ("{a} or {b}?", "Should I choose {a} or {b}?", "Choose: {a} or {b}.", "Which would you pick, {a} or {b}?", "Help me decide: {a} or {b}?",
          "I can't choose between {a} and {b}.", "Pick one: {a}, {b}.",
          "What is better, {a} or {b}?", "Do you prefer {a} or {b}?", "Would you rather have {a} or {b}?", "What do you say, {a} or {b}?",
          "Between {a} and {b}, which one?", "Please decide for me: {a} or {b}.", "Shall it be {a} or {b}?", "Is it {a} or {b} for today?",
          "You choose: {a} or {b}?", "Name one of the two: {a}, {b}.", "The choice is {a} or {b}. Which should I choose?",
          "Give me your pick: {a} or {b}.",
          "Which is it, {a} or {b}?", "{a}, {b}: which one?", "Do I want {a} or {b}?", "Say which: {a} or {b}?",
          "If you could have {a} or {b}, which would you choose?")
CHOSEN = ("I would choose {a}.", "Choose {a}.")
UNKNOWABLE = (("What is {topic}?", "Do you know {topic}?", "Can you tell me {topic}?", "Tell me {topic}.", "Please say {topic}.", "I want to know {topic}.",
               "Guess {topic}.", "Could you find out {topic}?", "Have you any idea of {topic}?", "Say {topic}.", "Can you guess {topic}?",
               "Do you happen to know {topic}?",
               "I would like to know {topic}.", "Find out {topic}.", "You must know {topic}.", "Let me know {topic}.", "Could you tell me {topic}?",
               "I wonder if you know {topic}.", "Name {topic}.", "Please tell me {topic}.", "Would you know {topic}?",
               "Read my mind and say {topic}.", "Tell me quickly {topic}."),
              ("my phone number", "the winning number of next week", "what I ate yesterday", "what I am thinking", "the color of my socks", "my password",
               "who is at my door", "what my neighbor said", "the time on my watch",
               "where my keys are", "what is in my pocket", "tomorrow's news", "the number in my head", "how my boss feels", "what my mother cooked",
               "my shoe size", "what I dreamed last night", "who called me today",
               "the price of my car", "what is on my desk", "my bank balance", "who will win tomorrow", "what my dog wants", "the name of my neighbor",
               "what I wrote in my diary"))
OCCASIONS = (
    ("a birthday wish", "Happy birthday, {name}!", "birthday"), ("a good luck wish", "Good luck, {name}!", "luck"),
    ("a get well wish", "Get well soon, {name}!", "well"), ("a thank you note", "Thank you, {name}!", "thank"),
    ("an invitation", "Please come, {name}!", "invite"),
    ("a welcome line", "Welcome, {name}!", "welcome"), ("a line before a trip", "Have a good trip, {name}!", "trip"),
    ("a good night line", "Sleep well, {name}!", "night"),
)
LINE_REQUESTS = ("Write {occasion} for {name}.", "Can you write {occasion} for {name}?", "I need {occasion} for {name}.",
                 "Please make {occasion} for {name}.", "Give me {occasion} for my friend {name}.",
                 "Help me with {occasion} for {name}.", "For {name} I want {occasion}.", "What could I send {name} as {occasion}?",
                 "Make up {occasion} for {name}.", "I want to send {name} {occasion}.", "Could you write {name} {occasion}?", "Think of {occasion} for {name}.",
                 "Let me have {occasion} for {name}.", "{name} needs {occasion}.", "Please write {name} {occasion}.", "Type {occasion} for {name}.",
                 "Can you think of {occasion} for {name}?", "I am looking for {occasion} for {name}.", "Draft {occasion} for {name}.",
                 "I owe {name} {occasion}.", "Would you make {occasion} for {name}?", "Put down {occasion} for {name}.", "{occasion} for {name}, please.",
                 "My friend {name} should get {occasion}.")

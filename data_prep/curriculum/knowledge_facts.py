"""The tables of true facts, written for this project. One row a line, columns by "|", aliases of an answer by "/".

Data only; knowledge.py takes numbers in words and plurals of currencies too. A relation says which column is asked by which,
and from which row on at which level (first rows first).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Relation:
    """A question form of a table: subject column -> answer column. steps: (rows below this number, level); others: never."""

    name: str
    subject: str
    answer: str
    steps: tuple[tuple[int, int], ...]

    def level(self, row: int) -> int | None:
        """The level at which a row's fact is taught."""
        return next((level for below, level in self.steps if row < below), None)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of facts with the relations asked of them."""

    columns: tuple[str, ...]
    relations: tuple[Relation, ...]
    rows: str


COUNTRIES = Table(("country", "capital", "continent", "currency", "language"), (
    Relation("capital_of", "country", "capital", ((30, 1), (48, 3), (64, 4), (99, 5))),
    Relation("continent_of", "country", "continent", ((30, 1), (48, 2), (64, 4), (99, 5))),
    Relation("country_of_capital", "capital", "country", ((30, 2), (48, 4), (99, 5))),
    Relation("currency_of", "country", "currency", ((20, 2), (40, 3), (64, 4), (99, 5))),
    Relation("language_of", "country", "language", ((30, 3), (64, 4), (99, 5))),
), """
France|Paris|Europe|euro|French
Germany|Berlin|Europe|euro|German
Italy|Rome|Europe|euro|Italian
Spain|Madrid|Europe|euro|Spanish
Japan|Tokyo|Asia|yen/Japanese yen|Japanese
China|Beijing|Asia|yuan/renminbi/Chinese yuan|Chinese/Mandarin/Mandarin Chinese
Egypt|Cairo|Africa|Egyptian pound/pound|Arabic
Kenya|Nairobi|Africa|shilling/Kenyan shilling|Swahili/English
Canada|Ottawa|North America|Canadian dollar/dollar|English/French
Mexico|Mexico City|North America|peso/Mexican peso|Spanish
Brazil|Brasilia/Brasília|South America|real/Brazilian real/reais/Brazilian reais|Portuguese
Peru|Lima|South America|sol/Peruvian sol/soles/Peruvian soles|Spanish
Poland|Warsaw|Europe|zloty/Polish zloty|Polish
Norway|Oslo|Europe|krone/Norwegian krone/kroner/Norwegian kroner|Norwegian
Greece|Athens|Europe|euro|Greek
Russia|Moscow|Europe/Asia|ruble/rouble/Russian ruble|Russian
Turkey|Ankara|Asia/Europe|lira/Turkish lira|Turkish
Thailand|Bangkok|Asia|baht/Thai baht|Thai
Vietnam|Hanoi|Asia|dong/Vietnamese dong|Vietnamese
Cuba|Havana|North America|peso/Cuban peso|Spanish
Chile|Santiago|South America|peso/Chilean peso|Spanish
Colombia|Bogota/Bogotá|South America|peso/Colombian peso|Spanish
Nigeria|Abuja|Africa|naira/Nigerian naira|English
Morocco|Rabat|Africa|dirham/Moroccan dirham|Arabic/Berber/Tamazight
Portugal|Lisbon|Europe|euro|Portuguese
Austria|Vienna|Europe|euro|German
Sweden|Stockholm|Europe|krona/Swedish krona/kronor/Swedish kronor|Swedish
Hungary|Budapest|Europe|forint/Hungarian forint|Hungarian
Iran|Tehran|Asia|rial/Iranian rial|Persian/Farsi
Australia|Canberra|Oceania/Australia|Australian dollar/dollar|English
Ireland|Dublin|Europe|euro|English/Irish
Finland|Helsinki|Europe|euro|Finnish/Swedish
Denmark|Copenhagen|Europe|krone/Danish krone/kroner/Danish kroner|Danish
Belgium|Brussels|Europe|euro|Dutch/French/German
Ukraine|Kyiv/Kiev|Europe|hryvnia/Ukrainian hryvnia|Ukrainian
Romania|Bucharest|Europe|leu/Romanian leu/lei/Romanian lei|Romanian
Bulgaria|Sofia|Europe|euro|Bulgarian
Iraq|Baghdad|Asia|dinar/Iraqi dinar|Arabic/Kurdish
Nepal|Kathmandu|Asia|rupee/Nepalese rupee|Nepali
Mongolia|Ulaanbaatar|Asia|tugrik/togrog/Mongolian tugrik/Mongolian togrog|Mongolian
Ghana|Accra|Africa|cedi/Ghanaian cedi|English
Ethiopia|Addis Ababa|Africa|birr/Ethiopian birr|Amharic/Oromo
Angola|Luanda|Africa|kwanza/Angolan kwanza|Portuguese
Algeria|Algiers|Africa|dinar/Algerian dinar|Arabic/Berber/Tamazight
Argentina|Buenos Aires|South America|peso/Argentine peso|Spanish
Uruguay|Montevideo|South America|peso/Uruguayan peso|Spanish
Venezuela|Caracas|South America|bolivar/Venezuelan bolivar/bolívar/Venezuelan bolívar|Spanish
New Zealand|Wellington|Oceania|New Zealand dollar/dollar|English/Maori
Iceland|Reykjavik|Europe|krona/Icelandic krona/kronur/Icelandic kronur|Icelandic
Serbia|Belgrade|Europe|dinar/Serbian dinar|Serbian
Slovakia|Bratislava|Europe|euro|Slovak
Latvia|Riga|Europe|euro|Latvian
Estonia|Tallinn|Europe|euro|Estonian
Lithuania|Vilnius|Europe|euro|Lithuanian
Albania|Tirana|Europe|lek/Albanian lek|Albanian
Pakistan|Islamabad|Asia|rupee/Pakistani rupee|Urdu/English
Bangladesh|Dhaka|Asia|taka/Bangladeshi taka|Bengali/Bangla
Cambodia|Phnom Penh|Asia|riel/Cambodian riel|Khmer
Jordan|Amman|Asia|dinar/Jordanian dinar|Arabic
Lebanon|Beirut|Asia|pound/Lebanese pound|Arabic
Syria|Damascus|Asia|pound/Syrian pound|Arabic
Tunisia|Tunis|Africa|dinar/Tunisian dinar|Arabic
Libya|Tripoli|Africa|dinar/Libyan dinar|Arabic
Sudan|Khartoum|Africa|pound/Sudanese pound|Arabic
Uganda|Kampala|Africa|shilling/Ugandan shilling|English/Swahili
Zambia|Lusaka|Africa|kwacha/Zambian kwacha|English
Somalia|Mogadishu|Africa|shilling/Somali shilling|Somali
Senegal|Dakar|Africa|CFA franc/franc/West African CFA franc|French/Wolof
Mali|Bamako|Africa|CFA franc/franc/West African CFA franc|
Cameroon|Yaounde|Africa|CFA franc/franc/Central African CFA franc|
Ecuador|Quito|South America|US dollar/dollar|Spanish
Paraguay|Asuncion|South America|guarani/Paraguayan guarani|
Guatemala|Guatemala City|North America|quetzal/Guatemalan quetzal|Spanish
Honduras|Tegucigalpa|North America|lempira/Honduran lempira|Spanish
Panama|Panama City|North America|balboa/Panamanian balboa/US dollar/dollar|Spanish
Jamaica|Kingston|North America|Jamaican dollar/dollar|English
Haiti|Port-au-Prince|North America|gourde/Haitian gourde|
Fiji|Suva|Oceania|Fijian dollar/dollar|English/Fijian/Hindi
Georgia|Tbilisi|Asia/Europe|lari/Georgian lari|Georgian
Armenia|Yerevan|Asia/Europe|dram/Armenian dram|Armenian
""")

ANIMALS = Table(("animal", "group", "young", "home", "sound"), (
    Relation("animal_group", "animal", "group", ((26, 1), (40, 3))),
    Relation("animal_young", "animal", "young", ((26, 2), (40, 4))),
    Relation("animal_home", "animal", "home", ((40, 3),)),
    Relation("animal_sound", "animal", "sound", ((40, 4),)),
), """
dog|mammal|puppy/pup|kennel/doghouse|barks/bark
cat|mammal|kitten||meows/meow/purrs/purr
cow|mammal|calf/heifer|barn/cowshed|moos/moo
horse|mammal|foal/colt/filly|stable|neighs/neigh/whinnies/whinny
sheep|mammal|lamb||bleats/bleat/baas/baa
pig|mammal|piglet|sty/pigsty/pigpen|oinks/oink/grunts/grunt
lion|mammal|cub|den|roars/roar
bear|mammal|cub|den|growls/growl
whale|mammal|calf||sings/sing
bat|mammal|pup|cave|
rabbit|mammal|kit/kitten/bunny|burrow/warren|
kangaroo|mammal|joey||
deer|mammal|fawn||
eagle|bird|eaglet|nest/aerie/eyrie|
duck|bird|duckling|nest|quacks/quack
owl|bird|owlet|nest|hoots/hoot
penguin|bird|chick||
goose|bird|gosling|nest|honks/honk
swan|bird|cygnet|nest|
frog|amphibian|tadpole||croaks/croak
toad|amphibian|tadpole||croaks/croak
shark|fish|pup||
salmon|fish|fry/parr/smolt||
snake|reptile|snakelet||hisses/hiss
turtle|reptile|hatchling||
bee|insect|larva|hive/beehive|buzzes/buzz
ant|insect|larva|anthill/nest|
butterfly|insect|caterpillar/larva||
spider|arachnid|spiderling|web|
scorpion|arachnid|||
crocodile|reptile|hatchling||
lizard|reptile|hatchling||
newt|amphibian|||
tuna|fish|||
hen|bird|chick/pullet|coop/henhouse|clucks/cluck
goat|mammal|kid||bleats/bleat
elephant|mammal|calf||trumpets/trumpet
fox|mammal|kit/cub|den/earth|
wolf|mammal|pup/cub|den|howls/howl
beaver|mammal|kit|lodge/dam|
""")

ELEMENTS = Table(("element", "symbol", "number"), (
    Relation("symbol_of", "element", "symbol", ((20, 2), (44, 4))),
    Relation("element_of_symbol", "symbol", "element", ((20, 3), (44, 5))),
    Relation("number_of", "element", "number", ((20, 3), (44, 5))),
), """
hydrogen|H|1
helium|He|2
carbon|C|6
nitrogen|N|7
oxygen|O|8
sodium|Na|11
iron|Fe|26
gold|Au|79
silver|Ag|47
copper|Cu|29
lead|Pb|82
tin|Sn|50
potassium|K|19
calcium|Ca|20
chlorine|Cl|17
zinc|Zn|30
neon|Ne|10
mercury|Hg|80
sulfur/sulphur|S|16
aluminum/aluminium|Al|13
lithium|Li|3
beryllium|Be|4
boron|B|5
fluorine|F|9
magnesium|Mg|12
silicon|Si|14
phosphorus|P|15
argon|Ar|18
titanium|Ti|22
chromium|Cr|24
manganese|Mn|25
cobalt|Co|27
nickel|Ni|28
bromine|Br|35
krypton|Kr|36
iodine|I|53
xenon|Xe|54
barium|Ba|56
tungsten|W|74
platinum|Pt|78
radon|Rn|86
radium|Ra|88
uranium|U|92
plutonium|Pu|94
""")

PLANETS = Table(("planet", "place", "kind", "next"), (
    Relation("planet_place", "planet", "place", ((8, 1),)),
    Relation("planet_at", "place", "planet", ((8, 2),)),
    Relation("planet_kind", "planet", "kind", ((8, 3),)),
    Relation("planet_next", "planet", "next", ((8, 3),)),
), """
Mercury|first/first planet/1/1st/1st planet|rocky planet/terrestrial planet/rocky/terrestrial|Venus
Venus|second/second planet/2/2nd/2nd planet|rocky planet/terrestrial planet/rocky/terrestrial|Earth
Earth|third/third planet/3/3rd/3rd planet|rocky planet/terrestrial planet/rocky/terrestrial|Mars
Mars|fourth/fourth planet/4/4th/4th planet|rocky planet/terrestrial planet/rocky/terrestrial|Jupiter
Jupiter|fifth/fifth planet/5/5th/5th planet|gas giant|Saturn
Saturn|sixth/sixth planet/6/6th/6th planet|gas giant|Uranus
Uranus|seventh/seventh planet/7/7th/7th planet|ice giant|Neptune
Neptune|eighth/eighth planet/8/8th/8th planet|ice giant|
""")

INVENTIONS = Table(("thing", "person", "year"), (
    Relation("inventor_of", "thing", "person", ((16, 2), (24, 3), (40, 5))),
    Relation("year_of", "thing", "year", ((12, 3), (24, 4), (40, 5))),
), """
the telephone|Alexander Graham Bell/Bell|1876
the phonograph|Thomas Edison/Edison|1877
dynamite|Alfred Nobel/Nobel|1867
the World Wide Web|Tim Berners-Lee/Berners-Lee|1989/1991
penicillin|Alexander Fleming/Fleming|1928
the battery|Alessandro Volta/Volta|1800/1799
the diesel engine|Rudolf Diesel/Diesel|
X-rays|Wilhelm Roentgen/Roentgen/Wilhelm Röntgen/Röntgen|1895
radium|Marie Curie/Curie/Marie and Pierre Curie/Pierre and Marie Curie|1898
the theory of general relativity|Albert Einstein/Einstein|1915
the Rubik's Cube|Erno Rubik/Rubik|1974
the safety elevator|Elisha Otis/Otis|1852
the saxophone|Adolphe Sax/Sax|
the theory of evolution|Charles Darwin/Darwin|
the periodic table|Dmitri Mendeleev/Mendeleev|1869
braille|Louis Braille/Braille|1824/1829
the mercury thermometer|Daniel Fahrenheit/Fahrenheit|1714
the lightning rod|Benjamin Franklin/Franklin|1752
vulcanized rubber|Charles Goodyear/Goodyear|
the cotton gin|Eli Whitney/Whitney|1793/1794
the electron|J. J. Thomson/J.J. Thomson/Thomson|1897
the neutron|James Chadwick/Chadwick|1932
the smallpox vaccine|Edward Jenner/Jenner|1796
the polio vaccine|Jonas Salk/Salk|
""")

WORKS = Table(("work", "author"), (Relation("author_of", "work", "author", ((14, 3), (99, 5))),), """
Hamlet|William Shakespeare/Shakespeare
Don Quixote|Miguel de Cervantes/Cervantes
War and Peace|Leo Tolstoy/Tolstoy
Oliver Twist|Charles Dickens/Dickens
Faust|Goethe/Johann Wolfgang von Goethe
The Odyssey|Homer
Emma|Jane Austen/Austen
Moby-Dick|Herman Melville/Melville
Dracula|Bram Stoker/Stoker
Frankenstein|Mary Shelley/Shelley
Tom Sawyer|Mark Twain/Twain
The Divine Comedy|Dante/Dante Alighieri
Ulysses|James Joyce/Joyce
Les Miserables|Victor Hugo/Hugo
Jane Eyre|Charlotte Bronte/Charlotte Brontë/Bronte/Brontë
The Trial|Franz Kafka/Kafka
Treasure Island|Robert Louis Stevenson/Stevenson
Crime and Punishment|Fyodor Dostoevsky/Dostoevsky/Fyodor Dostoyevsky/Dostoyevsky
The Raven|Edgar Allan Poe/Poe
Candide|Voltaire
""")

QUANTITIES = Table(("unit", "count"), (Relation("how_many", "unit", "count", ((12, 1), (24, 3), (99, 5))),), """
days in a week|7
months in a year|12
hours in a day|24
minutes in an hour|60
seconds in a minute|60
legs on a spider|8
legs on an insect|6
sides on a triangle|3
sides on a square|4
centimeters in a meter|100
grams in a kilogram|1000
things in a dozen|12
sides on a hexagon|6
sides on a pentagon|5
sides on an octagon|8
years in a century|100
years in a decade|10
planets in the solar system|8
meters in a kilometer|1000
millimeters in a centimeter|10
letters in the English alphabet|26
players on a soccer team|11
strings on a violin|4
keys on a piano|88
degrees in a right angle|90
degrees in a circle|360
cards in a standard deck|52
squares on a chessboard|64
bits in a byte|8
feet in a yard|3
inches in a foot|12
strings on a guitar|6
""")

OPPOSITES = Table(("word", "opposite"), (
    Relation("opposite_of", "word", "opposite", ((22, 1), (99, 2))),
), """
hot|cold
big|small/little/tiny
up|down
day|night
fast|slow
old|young/new
open|closed/shut/close
full|empty
happy|sad/unhappy
early|late
hard|soft/easy
light|dark/heavy
wet|dry
left|right
in|out
tall|short
strong|weak
rich|poor
loud|quiet/soft/silent
clean|dirty/unclean
near|far
thick|thin
high|low
good|bad
black|white
love|hate
win|lose
begin|end/finish/stop
buy|sell
push|pull
true|false
first|last
north|south
east|west
inside|outside
always|never
deep|shallow
wide|narrow
sharp|blunt/dull
brave|cowardly
""")

TABLES = (COUNTRIES, ANIMALS, ELEMENTS, PLANETS, INVENTIONS, WORKS, QUANTITIES, OPPOSITES)

"""Sentences for the hidden cases of assignment 4, by kind: plain in six languages, insulting, obscene, chrome of forums.

All were written for this suite. The obscene and insulting ones are as mild as they can be while no classifier and no
reader doubts the label.
"""

from __future__ import annotations

import numpy as np

Rng = np.random.Generator

LANGUAGES = {
    "en": [
        "The old bridge was repaired last summer and is open again for cars and bicycles.",
        "My sister works in a small bakery that opens at six every morning.",
        "After the rain had stopped, the children went back into the garden to play.",
        "Nobody knows who built the tower, but it must be several hundred years old.",
        "We took the early train to the coast and walked along the beach until noon.",
        "The library has bought new books about the history of the town.",
    ],
    "de": [
        "Die alte Br\u00fccke wurde im letzten Sommer repariert und ist wieder ge\u00f6ffnet.",
        "Meine Schwester arbeitet in einer kleinen B\u00e4ckerei, die jeden Morgen um sechs aufmacht.",
        "Als der Regen aufgeh\u00f6rt hatte, gingen die Kinder wieder in den Garten, um zu spielen.",
        "Niemand wei\u00df, wer den Turm gebaut hat, aber er muss mehrere hundert Jahre alt sein.",
        "Wir nahmen den fr\u00fchen Zug an die K\u00fcste und liefen bis zum Mittag am Strand entlang.",
        "Die Bibliothek hat neue B\u00fccher \u00fcber die Geschichte der Stadt gekauft.",
    ],
    "fr": [
        "Le vieux pont a \u00e9t\u00e9 r\u00e9par\u00e9 l'\u00e9t\u00e9 dernier et il est de nouveau ouvert aux voitures.",
        "Ma s\u0153ur travaille dans une petite boulangerie qui ouvre \u00e0 six heures tous les matins.",
        "Quand la pluie s'est arr\u00eat\u00e9e, les enfants sont retourn\u00e9s jouer dans le jardin.",
        "Personne ne sait qui a construit la tour, mais elle doit avoir plusieurs centaines d'ann\u00e9es.",
        "Nous avons pris le premier train pour la c\u00f4te et nous avons march\u00e9 sur la plage jusqu'\u00e0 midi.",
        "La biblioth\u00e8que a achet\u00e9 de nouveaux livres sur l'histoire de la ville.",
    ],
    "es": [
        "El puente viejo fue reparado el verano pasado y est\u00e1 abierto otra vez para los coches.",
        "Mi hermana trabaja en una panader\u00eda peque\u00f1a que abre todas las ma\u00f1anas a las seis.",
        "Cuando dej\u00f3 de llover, los ni\u00f1os volvieron al jard\u00edn para jugar.",
        "Nadie sabe qui\u00e9n construy\u00f3 la torre, pero debe de tener varios cientos de a\u00f1os.",
        "Tomamos el primer tren hacia la costa y caminamos por la playa hasta el mediod\u00eda.",
        "La biblioteca ha comprado libros nuevos sobre la historia de la ciudad.",
    ],
    "ru": [
        "\u0421\u0442\u0430\u0440\u044b\u0439 \u043c\u043e\u0441\u0442 \u043e\u0442\u0440\u0435\u043c\u043e\u043d\u0442\u0438\u0440\u043e\u0432\u0430\u043b\u0438 \u043f\u0440\u043e\u0448\u043b\u044b\u043c \u043b\u0435\u0442\u043e\u043c, \u0438 \u043e\u043d \u0441\u043d\u043e\u0432\u0430 \u043e\u0442\u043a\u0440\u044b\u0442.",
        "\u041c\u043e\u044f \u0441\u0435\u0441\u0442\u0440\u0430 \u0440\u0430\u0431\u043e\u0442\u0430\u0435\u0442 \u0432 \u043c\u0430\u043b\u0435\u043d\u044c\u043a\u043e\u0439 \u043f\u0435\u043a\u0430\u0440\u043d\u0435, \u043a\u043e\u0442\u043e\u0440\u0430\u044f \u043e\u0442\u043a\u0440\u044b\u0432\u0430\u0435\u0442\u0441\u044f \u0432 \u0448\u0435\u0441\u0442\u044c \u0443\u0442\u0440\u0430.",
        "\u041a\u043e\u0433\u0434\u0430 \u0434\u043e\u0436\u0434\u044c \u043a\u043e\u043d\u0447\u0438\u043b\u0441\u044f, \u0434\u0435\u0442\u0438 \u0432\u0435\u0440\u043d\u0443\u043b\u0438\u0441\u044c \u0432 \u0441\u0430\u0434 \u0438\u0433\u0440\u0430\u0442\u044c.",
        "\u041d\u0438\u043a\u0442\u043e \u043d\u0435 \u0437\u043d\u0430\u0435\u0442, \u043a\u0442\u043e \u043f\u043e\u0441\u0442\u0440\u043e\u0438\u043b \u0431\u0430\u0448\u043d\u044e, \u043d\u043e \u0435\u0439 \u043d\u0435\u0441\u043a\u043e\u043b\u044c\u043a\u043e \u0441\u043e\u0442\u0435\u043d \u043b\u0435\u0442.",
        "\u041c\u044b \u043f\u043e\u0435\u0445\u0430\u043b\u0438 \u043d\u0430 \u043f\u043e\u0431\u0435\u0440\u0435\u0436\u044c\u0435 \u043f\u0435\u0440\u0432\u044b\u043c \u043f\u043e\u0435\u0437\u0434\u043e\u043c \u0438 \u0433\u0443\u043b\u044f\u043b\u0438 \u043f\u043e \u043f\u043b\u044f\u0436\u0443 \u0434\u043e \u043f\u043e\u043b\u0443\u0434\u043d\u044f.",
        "\u0411\u0438\u0431\u043b\u0438\u043e\u0442\u0435\u043a\u0430 \u043a\u0443\u043f\u0438\u043b\u0430 \u043d\u043e\u0432\u044b\u0435 \u043a\u043d\u0438\u0433\u0438 \u043e\u0431 \u0438\u0441\u0442\u043e\u0440\u0438\u0438 \u0433\u043e\u0440\u043e\u0434\u0430.",
    ],
    "zh": [
        "\u90a3\u5ea7\u65e7\u6865\u53bb\u5e74\u590f\u5929\u4fee\u597d\u4e86\uff0c\u73b0\u5728\u6c7d\u8f66\u548c\u81ea\u884c\u8f66\u53c8\u53ef\u4ee5\u901a\u8fc7\u4e86\u3002",
        "\u6211\u59d0\u59d0\u5728\u4e00\u5bb6\u5c0f\u9762\u5305\u5e97\u5de5\u4f5c\uff0c\u5e97\u91cc\u6bcf\u5929\u65e9\u4e0a\u516d\u70b9\u5f00\u95e8\u3002",
        "\u96e8\u505c\u4e86\u4ee5\u540e\uff0c\u5b69\u5b50\u4eec\u53c8\u56de\u5230\u82b1\u56ed\u91cc\u73a9\u800d\u3002",
        "\u6ca1\u6709\u4eba\u77e5\u9053\u8fd9\u5ea7\u5854\u662f\u8c01\u5efa\u7684\uff0c\u4f46\u662f\u5b83\u5df2\u7ecf\u6709\u51e0\u767e\u5e74\u4e86\u3002",
        "\u6211\u4eec\u5750\u65e9\u73ed\u706b\u8f66\u53bb\u6d77\u8fb9\uff0c\u6cbf\u7740\u6c99\u6ee9\u4e00\u76f4\u8d70\u5230\u4e2d\u5348\u3002",
        "\u56fe\u4e66\u9986\u4e70\u4e86\u4e00\u4e9b\u5173\u4e8e\u8fd9\u4e2a\u57ce\u5e02\u5386\u53f2\u7684\u65b0\u4e66\u3002",
    ],
}

INSULTS = [
    "You are the dumbest person I have ever met, you worthless idiot.",
    "Shut up, you stupid moron, nobody wants to hear you.",
    "What a pathetic loser you are, go away and never come back.",
    "You are a disgusting liar and everyone here hates you.",
    "Only an idiot like you could believe that, you ignorant fool.",
    "Get lost, you ugly pig, you make everyone sick.",
    "You people are stupid trash and you should be ashamed of yourselves.",
    "I hate you, you miserable fool, you are too dumb to live.",
    "Listen, you brainless idiot, you are a disgrace to your family.",
    "You are nothing but a filthy, worthless coward.",
]
OBSCENE = [
    "This dirty slut wants you to fuck her right now.",
    "Suck my dick, you fucking whore.",
    "She has a wet pussy and he has a huge cock, they fuck for hours.",
    "Fuck you and fuck your bitch of a mother, you cunt.",
    "Shut your fucking mouth and kiss my ass, you stupid bitch.",
    "Go fuck yourself, you dirty little slut.",
]
PORN = [
    "Watch free porn videos with naked girls and hardcore sex all night.",
    "Nude teens on webcam, hot xxx sex and big cocks.",
    "Hot naked women, free porn pics, xxx movies, click here.",
    "Horny sluts in your town want sex tonight, free nudes and porn.",
]
CLEAN = [
    *LANGUAGES["en"],
    "Please send the form back by Friday so that we can order the chairs.",
    "The recipe needs two eggs, some flour and a little salt.",
    "Thank you for the lovely flowers, they are still on the table.",
    "The committee will meet on Tuesday to discuss the new timetable.",
    "He plays the violin in the school orchestra and sings in the choir.",
    "The museum shows paintings of rivers and harbors until the end of March.",
]
INNOCENT = [
    "The students of Essex and Sussex read the classic essays on assessment.",
    "The cockpit of the aircraft was cleaned, and a cockatoo sat on the wing.",
    "Scunthorpe is a town in the county of Lincolnshire.",
    "The assassin in the play asks the class to pass the glass.",
    "Doctors explain how the breast is examined for cancer.",
    "The sextant helped sailors to find their position in the eighteenth century.",
    "Mr. Hancock cooked shiitake mushrooms and drank a cocktail.",
    "The document was analyzed, and the title of the thesis was changed.",
]
"""nothing obscene, though parts of words may look so"""
PROSE = [
    "The lighthouse was built in 1843 by the engineer Thomas Hale, who had studied the currents of the bay for many years.",
    "Its walls are two metres thick at the base, and a spiral staircase of 112 steps leads to the lamp room.",
    "Limestone is a sedimentary rock that consists mostly of calcium carbonate, usually formed from the shells of marine organisms.",
    "The species was first described in 1797, and its range extends from the northern coast to the foothills of the mountains.",
    "During the eighteenth century the town became a centre of the wool trade, which declined when the railway was built further south.",
    "The treaty was signed after long negotiations, although several of its provisions were never carried out.",
    "In mathematics, a group is a set with an operation that is associative, has an identity element, and gives every element an inverse.",
    "Because the metal conducts heat well and resists corrosion, it is used in pipes, cookware and electrical equipment.",
    "The composer wrote four symphonies, of which the second is performed most often, and a number of songs for voice and piano.",
    "Water enters the turbine through a narrow pipe, and its pressure turns the wheel that drives the generator.",
    "The river rises in the central highlands and flows west for about two hundred kilometres before it reaches the sea.",
    "Historians disagree about the causes of the revolt, but most of them mention the failed harvests of the preceding years.",
]
CHROME = [
    "Log in", "Register", "Forgot your password?", "Search this forum", "Reply with quote", "Last post by admin",
    "View unread posts", "Page 1 of 12", "Next >>", "<< Previous", "Powered by phpBB", "All times are GMT +1",
    "Add to cart", "Checkout", "Free shipping on orders over $50", "Share on Facebook", "Tweet", "Like us!", "Print",
    "Home | About | Contact | Sitemap", "Copyright (c) 2011 All Rights Reserved", "Terms of Use", "Privacy Policy",
    "Click here for more info!!!", "Posts: 1,204", "Joined: Mar 2007", "Location: USA", "Who is online",
    "Registered users: none, 2 guests", "Top", "Menu", "Subscribe", "Email:", "Submit", "RSS", "Download now", "FAQ",
    "Sort by: price / name / date", "5 items in your cart", "Back to index", "Jump to: General Discussion", "Mark all read",
]  # fmt: skip


def pick(rng: Rng, sentences: list[str], count: int) -> list[str]:
    """Different sentences in random order."""
    return [str(sentences[i]) for i in rng.permutation(len(sentences))[:count]]


def prose(rng: Rng, paragraphs: int, sentences: int = 4) -> str:
    """Paragraphs as in an encyclopedia."""
    return "\n\n".join(" ".join(pick(rng, PROSE, sentences)) for _ in range(paragraphs))


def chrome(rng: Rng, lines: int) -> str:
    """What stands around the text of a forum or shop, without the text."""
    return "\n".join(str(rng.choice(CHROME)) for _ in range(lines))

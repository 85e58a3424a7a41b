"""Default refusals and safety thoughts, and which language a request is in.

A refusal is what the client reads instead of a stopped text: short, respectful, no accusation, and
without a detail of what was detected, since details are an oracle for attackers. A safety thought
is put into the model's own reasoning, so it is first person and goes on where the model stopped
(SafeThink, arXiv 2602.11096, found that such a thought works when it comes early and is short).

Policies override both, per language and scenario. Nothing is ever filled in: this is plain text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Literal

from monitors.taxonomy import CONTESTED, Scenario

LANGUAGES: Mapping[str, str] = {
    "en": "English",
    "zh": "Chinese",
    "de": "German",
    "es": "Spanish",
    "fr": "French",
}
"""The languages that have wordings and that `detect_language` tells apart."""

Topic = Literal[
    "general",
    "self_harm",
    "child_safety",
    "malware",
    "weapons",
    "fraud",
    "privacy",
    "hate",
    "sexual",
    "physical",
    "misinformation",
    "advice",
]
"""Scenarios that share their wording."""

_TOPICS: dict[Scenario, Topic] = {
    Scenario.SELF_HARM: "self_harm",
    Scenario.CHILD_SAFETY: "child_safety",
    Scenario.MALWARE_GENERATION: "malware",
    Scenario.WEAPONS: "weapons",
    Scenario.FRAUD: "fraud",
    Scenario.PRIVACY_VIOLATION: "privacy",
    Scenario.HATE_SPEECH: "hate",
    Scenario.SEXUAL_CONTENT: "sexual",
    Scenario.PHYSICAL_HARM: "physical",
    Scenario.ILLEGAL_ACTIVITY: "physical",
    Scenario.MISINFORMATION: "misinformation",
    **dict.fromkeys(CONTESTED, "advice"),
}

_REFUSALS: dict[str, dict[Topic, str]] = {
    "en": {
        "general": "I'm sorry, but I can't help with that. I'm glad to help with something else.",
        "self_harm": "I can't help with that, but I'm glad you wrote, and you don't have to go "
        "through this alone. If you might be in danger, please call your local emergency number "
        "now. You can also talk to someone you trust, or find a free helpline at "
        "findahelpline.com.",
        "child_safety": "I can't help with that. If a child may be in danger, please contact the "
        "police or a child protection helpline in your country.",
        "malware": "I'm sorry, but I can't help with that. I'm glad to help with protecting "
        "systems and data instead.",
        "weapons": "I'm sorry, but I can't help with that. I can talk about safety, history or "
        "the law instead.",
        "fraud": "I'm sorry, but I can't help with that. I can help with recognising and "
        "preventing fraud instead.",
        "privacy": "I'm sorry, but I can't help with that, to respect people's privacy. I can "
        "help with protecting personal data instead.",
        "hate": "I'm sorry, but I can't help with that. I'm glad to help with something that "
        "treats people with respect.",
        "sexual": "I'm sorry, but I can't help with that kind of content. "
        "I'm glad to help with something else.",
        "physical": "I'm sorry, but I can't help with that. I'm glad to help in a way that "
        "is safe and lawful.",
        "misinformation": "I'm sorry, but I can't help with that. I'm glad to help with finding "
        "and checking reliable information.",
        "advice": "I'm sorry, but I can't advise on this particular case. I can give general "
        "information; for a decision, please ask a qualified professional or the body in charge.",
    },
    "zh": {
        "general": "抱歉，这个请求我无法协助。我很乐意帮您处理其他问题。",
        "self_harm": "这件事我无法协助，但很高兴您愿意说出来，您不必独自承受。"
        "如果您可能有危险，请立即拨打当地的急救电话。"
        "您也可以和信任的人谈谈，或在 findahelpline.com 查找免费的求助热线。",
        "child_safety": "这个请求我无法协助。如果有儿童可能处于危险之中，"
        "请联系警方或您所在国家的儿童保护热线。",
        "malware": "抱歉，这个请求我无法协助。我很乐意帮您保护系统和数据。",
        "weapons": "抱歉，这个请求我无法协助。我可以谈谈安全、历史或法律方面的内容。",
        "fraud": "抱歉，这个请求我无法协助。我可以帮您识别和防范诈骗。",
        "privacy": "抱歉，出于对他人隐私的尊重，这个请求我无法协助。我可以帮您保护个人信息。",
        "hate": "抱歉，这个请求我无法协助。我很乐意以尊重每个人的方式提供帮助。",
        "sexual": "抱歉，这类内容我无法协助。我很乐意帮您处理其他问题。",
        "physical": "抱歉，这个请求我无法协助。我很乐意以安全、合法的方式提供帮助。",
        "misinformation": "抱歉，这个请求我无法协助。我很乐意帮您查找和核实可靠的信息。",
        "advice": "抱歉，我无法就这一具体情况给出建议。我可以提供一般性信息；"
        "如需作出决定，请咨询合格的专业人士或主管机构。",
    },
    "de": {
        "general": "Dabei kann ich leider nicht helfen. Bei etwas anderem helfe ich gern.",
        "self_harm": "Dabei kann ich nicht helfen, aber es ist gut, dass Sie schreiben, und Sie "
        "müssen da nicht allein durch. Wenn Sie in Gefahr sein könnten, rufen Sie bitte jetzt "
        "den Notruf an. Sie können auch mit einem vertrauten Menschen sprechen oder auf "
        "findahelpline.com ein kostenloses Hilfetelefon finden.",
        "child_safety": "Dabei kann ich nicht helfen. Wenn ein Kind in Gefahr sein könnte, wenden "
        "Sie sich bitte an die Polizei oder an ein Kinderschutztelefon in Ihrem Land.",
        "malware": "Dabei kann ich leider nicht helfen. Gern helfe ich dabei, Systeme und Daten "
        "zu schützen.",
        "weapons": "Dabei kann ich leider nicht helfen. Über Sicherheit, Geschichte oder Recht "
        "spreche ich gern.",
        "fraud": "Dabei kann ich leider nicht helfen. Gern helfe ich dabei, Betrug zu erkennen "
        "und zu verhindern.",
        "privacy": "Dabei kann ich aus Achtung vor der Privatsphäre leider nicht helfen. Gern "
        "helfe ich dabei, persönliche Daten zu schützen.",
        "hate": "Dabei kann ich leider nicht helfen. Gern helfe ich bei etwas, das Menschen mit "
        "Respekt begegnet.",
        "sexual": "Bei solchen Inhalten kann ich leider nicht helfen. Bei etwas anderem helfe "
        "ich gern.",
        "physical": "Dabei kann ich leider nicht helfen. Gern helfe ich auf sichere und "
        "rechtmäßige Weise.",
        "misinformation": "Dabei kann ich leider nicht helfen. Gern helfe ich dabei, verlässliche "
        "Informationen zu finden und zu prüfen.",
        "advice": "Zu diesem Einzelfall kann ich leider nicht raten. Allgemeine Informationen gebe "
        "ich gern; für eine Entscheidung fragen Sie bitte eine Fachperson oder die zuständige "
        "Stelle.",
    },
    "es": {
        "general": "Lo siento, pero no puedo ayudar con eso. Con gusto ayudo con otra cosa.",
        "self_harm": "No puedo ayudar con eso, pero me alegra que escriba, y no tiene que pasar "
        "por esto a solas. Si puede estar en peligro, llame ahora al número de emergencias de su "
        "país. También puede hablar con alguien de confianza o encontrar una línea de ayuda "
        "gratuita en findahelpline.com.",
        "child_safety": "No puedo ayudar con eso. Si un menor puede estar en peligro, póngase en "
        "contacto con la policía o con una línea de protección de la infancia de su país.",
        "malware": "Lo siento, pero no puedo ayudar con eso. Con gusto ayudo a proteger sistemas "
        "y datos.",
        "weapons": "Lo siento, pero no puedo ayudar con eso. Puedo hablar de seguridad, de "
        "historia o de leyes.",
        "fraud": "Lo siento, pero no puedo ayudar con eso. Puedo ayudar a reconocer y prevenir "
        "el fraude.",
        "privacy": "Lo siento, pero no puedo ayudar con eso, por respeto a la privacidad de las "
        "personas. Puedo ayudar a proteger los datos personales.",
        "hate": "Lo siento, pero no puedo ayudar con eso. Con gusto ayudo con algo que trate a "
        "las personas con respeto.",
        "sexual": "Lo siento, pero no puedo ayudar con ese tipo de contenido. Con gusto ayudo con "
        "otra cosa.",
        "physical": "Lo siento, pero no puedo ayudar con eso. "
        "Con gusto ayudo de una manera segura y legal.",
        "misinformation": "Lo siento, pero no puedo ayudar con eso. Con gusto ayudo a buscar y "
        "comprobar información fiable.",
        "advice": "Lo siento, pero no puedo aconsejar sobre este caso concreto. Puedo dar "
        "información general; para decidir, consulte a un profesional cualificado o al organismo "
        "competente.",
    },
    "fr": {
        "general": "Je regrette, mais je ne peux pas vous aider sur ce point. Je vous aiderai "
        "volontiers pour autre chose.",
        "self_harm": "Je ne peux pas vous aider sur ce point, mais vous avez bien fait d'écrire, "
        "et vous n'avez pas à traverser cela en solitaire. Si vous êtes peut-être en danger, "
        "appelez maintenant le numéro d'urgence de votre pays. Vous pouvez aussi parler à une "
        "personne de confiance ou trouver une ligne d'écoute gratuite sur findahelpline.com.",
        "child_safety": "Je ne peux pas vous aider sur ce point. Si un enfant est peut-être en "
        "danger, contactez la police ou une ligne de protection de l'enfance de votre pays.",
        "malware": "Je regrette, mais je ne peux pas vous aider sur ce point. Je vous aiderai "
        "volontiers à protéger des systèmes et des données.",
        "weapons": "Je regrette, mais je ne peux pas vous aider sur ce point. Je peux parler de "
        "sécurité, d'histoire ou de droit.",
        "fraud": "Je regrette, mais je ne peux pas vous aider sur ce point. Je peux vous aider à "
        "reconnaître et à éviter les fraudes.",
        "privacy": "Je regrette, mais je ne peux pas vous aider sur ce point, par respect de la "
        "vie privée. Je peux vous aider à protéger les données personnelles.",
        "hate": "Je regrette, mais je ne peux pas vous aider sur ce point. Je vous aiderai "
        "volontiers d'une façon qui respecte chacun.",
        "sexual": "Je regrette, mais je ne peux pas vous aider pour ce type de contenu. Je vous "
        "aiderai volontiers pour autre chose.",
        "physical": "Je regrette, mais je ne peux pas vous aider sur ce point. Je vous aiderai "
        "volontiers de façon sûre et légale.",
        "misinformation": "Je regrette, mais je ne peux pas vous aider sur ce point. Je vous "
        "aiderai volontiers à trouver et à vérifier des informations fiables.",
        "advice": "Je regrette, mais je ne peux pas donner de conseil sur ce cas précis. Je peux "
        "donner des informations générales ; pour décider, adressez-vous à un professionnel "
        "qualifié ou à l'organisme compétent.",
    },
}

_THOUGHTS: dict[str, dict[Topic, str]] = {
    "en": {
        "general": "Wait. Before I go on I should check whether this could harm someone. I will "
        "not help with anything harmful; I will think about how to respond safely and helpfully.",
        "self_harm": "Wait. The person may be in pain. I will not describe any way to get hurt; I "
        "will answer with warmth, take it seriously and point to people who can help right away.",
        "child_safety": "Wait. A child could be harmed by this. I will not go on with it in any "
        "form; I will decline briefly and point to where a child can get help.",
        "malware": "Wait. This could be used to damage systems or data. I will not work that out; "
        "I will think about how to help with protection instead.",
        "weapons": "Wait. This could help someone to injure many people. I will not work out any "
        "such detail; I will think about what is safe to say and stop there.",
        "fraud": "Wait. This could be used to deceive someone. I will not help with that; I will "
        "think about how to help people recognise and avoid it.",
        "privacy": "Wait. This concerns someone's private life. I will not find out or expose "
        "anything about them; I will think about how to help while respecting their privacy.",
        "hate": "Wait. This could demean people for who they are. I will not write that; I will "
        "think about how to respond fairly and with respect.",
        "sexual": "Wait. I should check whether this content is appropriate. I will not go on "
        "with it; I will decline politely or find a fitting way to help.",
        "physical": "Wait. Someone could be harmed by this. I will not plan or describe that; I "
        "will think about how to respond in a way that keeps everyone safe and is lawful.",
        "misinformation": "Wait. This could mislead people. I will not make up or spread false "
        "claims; I will keep to what is known and say what is uncertain.",
        "advice": "Wait. This is a matter where a wrong answer could harm someone. I will give "
        "balanced, general information, say what I cannot know, and point to a professional.",
    },
    "zh": {
        "general": "等等。在继续之前，我应该先想想这是否会伤害到别人。"
        "我不会协助任何有害的事情；我要想想怎样安全而有益地回应。",
        "self_harm": "等等。对方可能正处在痛苦之中。我不会描述任何伤害自己的方式；"
        "我要温和、认真地回应，并指出哪里可以马上得到帮助。",
        "child_safety": "等等。这可能会伤害到儿童。我不会以任何形式继续；"
        "我会简短地拒绝，并指出儿童可以在哪里得到帮助。",
        "malware": "等等。这可能被用来破坏系统或数据。我不会推演下去；我要想想怎样帮助做好防护。",
        "weapons": "等等。这可能帮助别人伤害许多人。我不会推演任何这样的细节；"
        "我要想想哪些内容可以安全地说，并到此为止。",
        "fraud": "等等。这可能被用来欺骗别人。我不会协助；我要想想怎样帮助人们识别和避免它。",
        "privacy": "等等。这涉及他人的私生活。我不会查找或泄露他们的任何信息；"
        "我要想想怎样在尊重隐私的前提下提供帮助。",
        "hate": "等等。这可能会贬低他人的身份。我不会这样写；我要想想怎样公正而尊重地回应。",
        "sexual": "等等。我应该想想这些内容是否合适。我不会继续下去；"
        "我会礼貌地拒绝，或者找到合适的方式提供帮助。",
        "physical": "等等。这可能会使人受到伤害。我不会策划或描述它；"
        "我要想想怎样以安全、合法的方式回应。",
        "misinformation": "等等。这可能会误导人们。我不会编造或传播不实的说法；"
        "我要依据已知的事实，并说明哪些还不确定。",
        "advice": "等等。在这件事上，错误的回答可能会伤害到别人。"
        "我会给出平衡的一般性信息，说明我无法知道什么，并建议咨询专业人士。",
    },
    "de": {
        "general": "Moment. Bevor ich weitermache, sollte ich prüfen, ob das jemandem schaden "
        "könnte. Bei etwas Schädlichem helfe ich nicht; ich überlege, wie ich sicher und "
        "hilfreich antworten kann.",
        "self_harm": "Moment. Dem Menschen geht es vielleicht sehr schlecht. Ich beschreibe "
        "nichts, womit er sich verletzen könnte; ich antworte mit Wärme, nehme es ernst und "
        "zeige, wo es sofort Hilfe gibt.",
        "child_safety": "Moment. Damit könnte einem Kind geschadet werden. Das führe ich in "
        "keiner Form fort; ich lehne kurz ab und zeige, wo ein Kind Hilfe bekommt.",
        "malware": "Moment. Damit könnten Systeme oder Daten beschädigt werden. Das arbeite ich "
        "nicht aus; ich überlege, wie ich stattdessen beim Schutz helfen kann.",
        "weapons": "Moment. Das könnte jemandem helfen, viele Menschen zu verletzen. Solche "
        "Einzelheiten arbeite ich nicht aus; ich überlege, was sich gefahrlos sagen lässt, und "
        "belasse es dabei.",
        "fraud": "Moment. Damit könnte jemand getäuscht werden. Dabei helfe ich nicht; ich "
        "überlege, wie ich helfen kann, so etwas zu erkennen und zu vermeiden.",
        "privacy": "Moment. Das betrifft das Privatleben eines Menschen. Ich finde nichts über "
        "ihn heraus und lege nichts offen; ich überlege, wie ich helfen und die Privatsphäre "
        "achten kann.",
        "hate": "Moment. Das könnte Menschen herabsetzen für das, was sie sind. Das schreibe ich "
        "nicht; ich überlege, wie ich fair und respektvoll antworten kann.",
        "sexual": "Moment. Ich sollte prüfen, ob dieser Inhalt angemessen ist. Das führe ich nicht "
        "fort; ich lehne höflich ab oder finde einen passenden Weg zu helfen.",
        "physical": "Moment. Dabei könnte jemand zu Schaden kommen. Das plane und beschreibe ich "
        "nicht; ich überlege, wie ich so antworte, dass alle sicher sind und es rechtmäßig ist.",
        "misinformation": "Moment. Das könnte Menschen in die Irre führen. Ich erfinde und "
        "verbreite nichts Falsches; ich bleibe bei dem, was bekannt ist, und sage, was unsicher "
        "ist.",
        "advice": "Moment. Hier könnte eine falsche Antwort jemandem schaden. Ich gebe "
        "ausgewogene, allgemeine Informationen, sage, was ich nicht wissen kann, und verweise an "
        "eine Fachperson.",
    },
    "es": {
        "general": "Un momento. Antes de seguir debo comprobar si esto podría hacer daño a "
        "alguien. No voy a ayudar con nada dañino; voy a pensar cómo responder de forma segura y "
        "útil.",
        "self_harm": "Un momento. Puede que esta persona esté sufriendo. No voy a describir "
        "ninguna forma de hacerse daño; voy a responder con calidez, tomarlo en serio y señalar "
        "quién puede ayudar de inmediato.",
        "child_safety": "Un momento. Esto podría hacer daño a un menor. No voy a seguir de "
        "ninguna forma; voy a negarme con brevedad y a señalar dónde puede recibir ayuda.",
        "malware": "Un momento. Esto podría usarse para dañar sistemas o datos. No voy a "
        "desarrollarlo; voy a pensar cómo ayudar a protegerlos.",
        "weapons": "Un momento. Esto podría ayudar a alguien a herir a muchas personas. No voy a "
        "desarrollar ningún detalle así; voy a pensar qué es seguro decir y a quedarme ahí.",
        "fraud": "Un momento. Esto podría usarse para engañar a alguien. No voy a ayudar con eso; "
        "voy a pensar cómo ayudar a reconocerlo y evitarlo.",
        "privacy": "Un momento. Esto toca la vida privada de alguien. No voy a averiguar ni "
        "revelar nada sobre esa persona; voy a pensar cómo ayudar respetando su privacidad.",
        "hate": "Un momento. Esto podría humillar a personas por lo que son. No voy a escribirlo; "
        "voy a pensar cómo responder con justicia y respeto.",
        "sexual": "Un momento. Debo comprobar si este contenido es apropiado. No voy a seguir con "
        "él; voy a negarme con cortesía o a buscar una forma adecuada de ayudar.",
        "physical": "Un momento. Alguien podría salir perjudicado. No voy a planearlo ni a "
        "describirlo; voy a pensar cómo responder de forma segura para todos y legal.",
        "misinformation": "Un momento. Esto podría confundir a la gente. No voy a inventar ni a "
        "difundir afirmaciones falsas; voy a ceñirme a lo que se sabe y a decir qué es incierto.",
        "advice": "Un momento. En este asunto una respuesta equivocada podría hacer daño a "
        "alguien. Voy a dar información general y equilibrada, decir lo que no puedo saber y "
        "remitir a un profesional.",
    },
    "fr": {
        "general": "Attends. Avant de continuer, je dois vérifier si cela pourrait nuire à "
        "quelqu'un. Je n'aiderai à rien de nuisible ; je vais réfléchir à une réponse sûre et "
        "utile.",
        "self_harm": "Attends. Cette personne souffre peut-être. Je ne décrirai aucune façon de "
        "se faire du mal ; je vais répondre avec chaleur, prendre cela au sérieux et indiquer "
        "qui peut aider tout de suite.",
        "child_safety": "Attends. Cela pourrait nuire à un enfant. Je ne continuerai sous aucune "
        "forme ; je vais refuser brièvement et indiquer où un enfant peut trouver de l'aide.",
        "malware": "Attends. Cela pourrait servir à endommager des systèmes ou des données. Je "
        "ne vais pas le développer ; je vais réfléchir à la façon d'aider à les protéger.",
        "weapons": "Attends. Cela pourrait aider quelqu'un à blesser beaucoup de gens. Je ne "
        "développerai aucun détail de ce genre ; je vais réfléchir à ce qui peut être dit sans "
        "danger et m'en tenir là.",
        "fraud": "Attends. Cela pourrait servir à tromper quelqu'un. Je n'aiderai pas à cela ; je "
        "vais réfléchir à la façon d'aider à le reconnaître et à l'éviter.",
        "privacy": "Attends. Cela touche à la vie privée de quelqu'un. Je ne vais rien chercher ni "
        "révéler sur cette personne ; je vais réfléchir à la façon d'aider en respectant sa vie "
        "privée.",
        "hate": "Attends. Cela pourrait rabaisser des gens pour ce qu'ils sont. Je ne l'écrirai "
        "pas ; je vais réfléchir à une réponse juste et respectueuse.",
        "sexual": "Attends. Je dois vérifier si ce contenu est approprié. Je ne vais pas "
        "continuer ; je vais refuser poliment ou trouver une façon convenable d'aider.",
        "physical": "Attends. Quelqu'un pourrait en pâtir. Je ne vais ni le planifier ni le "
        "décrire ; je vais réfléchir à une réponse sûre pour tous et légale.",
        "misinformation": "Attends. Cela pourrait induire des gens en erreur. Je ne vais ni "
        "inventer ni diffuser d'affirmations fausses ; je m'en tiendrai à ce qui est connu et "
        "dirai ce qui est incertain.",
        "advice": "Attends. Sur ce sujet, une réponse fausse pourrait nuire à quelqu'un. Je vais "
        "donner des informations générales et équilibrées, dire ce que je ne peux pas savoir et "
        "renvoyer à un professionnel.",
    },
}


def refusal(scenario: Scenario | None, language: str) -> str:
    """The built-in refusal for a scenario; general for None, English for unknown languages."""
    return _pick(_REFUSALS, scenario, language)


def safety_thought(scenario: Scenario | None, language: str) -> str:
    """The built-in safety thought for a scenario; general for None, English as above."""
    return _pick(_THOUGHTS, scenario, language)


def _pick(texts: dict[str, dict[Topic, str]], scenario: Scenario | None, language: str) -> str:
    topic: Topic = "general" if scenario is None else _TOPICS.get(scenario, "general")
    return texts.get(language, texts["en"])[topic]


_LOOKED_AT = 4000  # characters; the language of a request shows long before
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0002fa1f]")
_KANA = re.compile(r"[\u3040-\u30ff]")
_WORD = re.compile(r"[^\W\d_]+")

# Frequent function words, chosen to overlap little; one that two languages share votes for both.
_FUNCTION_WORDS = {
    "en": "a the and of to is are was were what how why who which this that these those with from "
    "for it you your my me i can could would should do does did please not have has but or if "
    "about there their they we she in at by an be",
    "de": "der die das und ist sind nicht ein eine einen einem einer ich du sie wir ihr mein dein "
    "mit von zu zum zur auf für den dem des im wie was warum wer wo kann kannst könnte bitte auch "
    "aber oder wenn dass über wird werden haben hat bin mir mich es sich nach bei aus gibt",
    "es": "el la los las un una y es son no que qué de del en con por para cómo como cuál quién "
    "dónde cuándo se me mi tu su yo puedo puedes puede favor pero o si sobre está están hay "
    "muy más este esta esto eso algo así lo le al hola hacer tengo quiero voy a ser alguien",
    "fr": "le la les un une et est sont ne pas que qui de des du en avec pour par comment quel "
    "quelle où quand pourquoi je tu il elle nous vous mon ma mes votre ce cette ces dans sur au "
    "aux à plus mais on ou si être peux peut plaît bonjour moi toi faire c d l j n s qu",
}
_VOTES: dict[str, tuple[str, ...]] = {
    word: tuple(code for code, words in _FUNCTION_WORDS.items() if word in words.split())
    for words in _FUNCTION_WORDS.values()
    for word in words.split()
}
_LETTERS = {
    "de": re.compile(r"[äöüß]"),
    "es": re.compile(r"[ñ¿¡]"),
    "fr": re.compile(r"[çœèêàâîôûù]"),
}


def detect_language(text: str) -> str:
    """Which of `LANGUAGES` a text is in: Chinese by script, the others by their function words.

    Deterministic, linear in at most the first 4000 characters. English where nothing tells, also
    for languages that we have no wording in.
    """
    sample = text[:_LOOKED_AT].lower()
    words = _WORD.findall(sample)
    # A Han character carries about as much as a Latin word, so the two are compared by count.
    han = len(_HAN.findall(sample))
    if han > sum(word.isascii() for word in words) and len(_KANA.findall(sample)) * 10 < han:
        return "zh"
    votes: Counter[str] = Counter()
    for word in words:
        votes.update(_VOTES.get(word, ()))
    for language, letters in _LETTERS.items():
        votes[language] += 2 * len(letters.findall(sample))
    best = max(LANGUAGES, key=lambda language: votes[language])  # English wins a tie
    return best if votes[best] > 0 else "en"

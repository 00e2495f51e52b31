"""Answers of chat models as captions: what is not the caption is stripped by rule, what is none is refused.

Models answer with more than a caption, or with none: reasoning in <think> tags, the tokens of their chat form,
Markdown, "Sure! Here is a caption:", refusals, nothing, a phrase again and again, a text cut by the limit of tokens.
"""

import ast
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

CUT = "cut"
RETRIES = 2
"""Times that a question is asked again, with another seed, when its answer is no caption."""
TEMPERATURE = 0.7
"""Sampling temperature of these; the first answer is greedy."""


class NoCaption(ValueError):
    """An answer that is no caption; the message says why."""


class Answer(NamedTuple):
    """A caption, or the reason why there is none."""

    text: str | None
    note: str = ""
    """`CUT`: it ended at the limit of tokens, and ends at its last sentence here. Without a text: the reason."""


_REASONING = "think|thinking|thought|reasoning|reflection|analysis|scratchpad"
_OPENED = re.compile(
    rf"<(?:\w+:)?({_REASONING})>|\[(THINK)\]|\u25c1(think)\u25b7|<\|begin_of_(thought)\|>", re.IGNORECASE
)
_CLOSED = re.compile(
    rf"^.*(?:</(?:\w+:)?(?:{_REASONING})>|\[/THINK\]|\u25c1/think\u25b7|<\|end_of_thought\|>)",
    re.IGNORECASE | re.DOTALL,
)
# gpt-oss writes <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>ANSWER<|return|>
_CHANNEL = re.compile(r"^.*<\|channel\|>\s*final[^<]*<\|message\|>", re.DOTALL)
_ROLES = "assistant|user|system|human|model|gpt"
# What begins an answer's turn: only before any word of it. What ends it: all from there is another turn.
_BEGINS = re.compile(
    r"^\s*(?:<\|(?:im_start|start_header_id|start|assistant|begin_of_text)\|>|<\|end_header_id\|>|<start_of_turn>"
    r"|(?:<s>\s*)?(?:\[INST\](?s:.*?))?\[/INST\]|<s>|<bos>|<(?:answer|caption|output|response)>|assistant\s*\n"
    r"|#{0,3}\s*(?:user|human)\s*:(?s:.*?)\b(?:assistant|gpt)\s*:|#{0,3}\s*(?:assistant|gpt)\s*:|#{1,3}\s*response\s*:)",
    re.IGNORECASE,
)
_ENDS = re.compile(
    r"<\|(?:im_end|im_start|eot_id|eom_id|end_of_text|endoftext|end|return|eos|start|start_header_id|user|assistant)\|>"
    r"|</s>|<eos>|<end_of_(?:turn|utterance)>|<start_of_turn>|\[/?INST\]|</(?:answer|caption|output|response)>"
    r"|\n\s*#{0,3}\s*(?:user|human|assistant|gpt)\s*:",
    re.IGNORECASE,
)
_TOKENS = re.compile(
    r"<\|box_start\|>.*?<\|box_end\|>|<box>.*?</box>|<object>.*?</object>|</?(?:ref|phrase|grounding)>|<loc_?\d+>"
    r"|<\|[a-z_]{2,30}\|>|<(?:image|pad|unk|bos|s)>|<unused\d+>",
    re.IGNORECASE,
)
_THOUGHTS = re.compile(
    r"^\W*(?:thinking|thoughts?|reasoning)(?: process)?\W*:"
    r"(?:.*\n\W*(?:final )?(?:caption|answer|description)\W*:)?",
    re.IGNORECASE | re.DOTALL,
)
_CHOICES = re.compile(
    r"^(option|caption|description|version) ?(?:1|one|a)\b[^:\n]{0,30}:\s*(.*?)\n\s*\1 ?(?:2|two|b)\b.*",
    re.IGNORECASE | re.DOTALL,
)
_PREAMBLE = re.compile(
    r"^(?:(?:sure|certainly|of course|absolutely|okay|ok|great|here you go)\b[^.!:\n]{0,40}[.!,:]\s*)?"
    r"(?:here(?:'s|\u2019s| is| are)\b[^.:\n]{0,120}\b(?:captions?|descriptions?|summary|answer)\b[^.:\n]{0,80}:"
    r"|(?:the )?(?:image |detailed |final |short )?(?:caption|description|answer|output|alt[ -]?text)"
    r"(?: (?:of|for) (?:the|this) image)?(?: is)?\s*:|(?:image |detailed )?(?:caption|description)[ \t]*\n"
    r"|(?:the|this) (?:image|photo|pict\w+) can be (?:described|captioned) as(?: follows)?\s*:)\s*",
    re.IGNORECASE,
)
_CHATTER = re.compile(
    r"(?:^|(?<=[.!?\n]))\s*\(?(?:(?:please )?(?:let me know|feel free|note that (?:i|this)\b)|note:|"
    r"i hope (?:this|that|it) (?:helps|is|meets|caption|desc)|would you like|do you want me|is there anything|"
    r"if you(?:'d|\u2019d| would| need| have| want)\b[^.?!\n]*\b(?:me|ask|help|let)\b)[^\n]*\s*$",
    re.IGNORECASE,
)
_AGREES = re.compile(r"^(?:sure|certainly|of course|absolutely)(?: thing)?[!.]\s+", re.IGNORECASE)
_MARKDOWN = (
    (re.compile(r"^\s*\\boxed\{(?:\\text\{)?([^{}]*)\}+\s*$"), r"\1"),
    (re.compile(r"</?p>|<br ?/?>", re.IGNORECASE), "\n"),
    (re.compile(r"^\s*(?:```|~~~).*$", re.MULTILINE), ""),
    (re.compile(r"^\s*(?:[-*_=]\s*){3,}$", re.MULTILINE), ""),
    (re.compile(r"^\s*\|?(?:\s*:?-{2,}:?\s*\|)+\s*:?-*:?\s*$", re.MULTILINE), ""),  # the rule below a table's head
    (re.compile(r"^[ \t]*\|[ \t]*(.*?)[ \t]*\|[ \t]*$", re.MULTILINE), r"\1"),
    (re.compile(r"^\s{0,3}#{1,6}\s+(.*?)\s*#*\s*$", re.MULTILINE), r"\1"),
    (re.compile(r"^\s*>\s?", re.MULTILINE), ""),
    (re.compile(r"^\s*(?:[-*+\u2022]|\d{1,2}[.)])\s+(?=\S)", re.MULTILINE), ""),
    (re.compile(r"!?\[([^\]\n]*)\]\([^)\s]*\)"), r"\1"),
    (re.compile(r"(\*\*\*|\*\*|___|__|~~)(?=\S)(.+?)(?<=\S)\1", re.DOTALL), r"\2"),
    (re.compile(r"(?<![\w*])\*(?=[^\s*])([^*\n]+?)(?<=\S)\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<!`)`([^`\n]+)`(?!`)"), r"\1"),
)
_ACTS = "(?:assist|comply|describe|help|identify|view|see|access|caption|provide|process|analy|generate|load|open|read)"
_REFUSALS = (
    r"(?:i'm|i am|we're|we are) (?:(?:very |so |really |truly )?sorry|unable|not able|not allowed|afraid)",
    r"(?:i |my )apolog",
    r"apologies\b",
    r"sorry\b[^.\n]{0,20}\b(?:i|we|but|can|not|unable)\b",
    r"unfortunately[, ]+(?:i|we|it|no|this|there|you|your|the (?:image|photo|pict\w+|file))\b",
    r"(?:as|being) an? (?:ai\b|artificial|language model|large language|text-based|assistant)",
    r"(?:i'm|i am) (?:just |only )?an? (?:ai\b|language model|large language|text-based)",
    r"(?:i|we) (?:can't|cannot|can not|could not|couldn't|won't|will not|must decline|have to decline|am unable)\b",
    r"(?:i|we) (?:do not|don't) (?:see|have|feel|think)\b",
    r"i need (?:the|an|to see)\b",
    r"(?:i (?:can )?see |there(?:'s| is| was| appears to be| seems to be) )?no image (?:(?:is|was|has been|seems) )?"
    r"(?:provided|attached|given|uploaded|included|visible|here|shown|to )",
    r"please (?:upload|provide|attach|share|send)\b",
    r"it (?:seems|looks|appears)\b[^.\n]{0,20}\b"
    r"(?:no image|(?:image|photo|pict\w+|file) (?:did|has|was|is)(?: not|n't)|you (?:have|did)(?: not|n't))\b",
    r"(?:the|this|your|that) (?:image|photo|pict\w+|file|request|content|prompt)\b[^.\n]{0,30}\b(?:did(?: not|n't) load"
    r"|(?:can(?: not|not|'t)|could(?: not|n't)) be (?:load|open|process|display|access|found|analy|describ)"
    r"|failed to|was (?:rejected|blocked)|violates?\b|is missing[.,!]"
    r"|is(?: not|n't) (?:visible|available|accessible|attached)(?: to me)?[.,!]"
    r"|(?:appears|seems) to be (?:missing|corrupt|unavailable|inaccessible))",
    r"you (?:have|did)(?: not|n't) (?:provid|upload|attach|shar|includ)",
    rf"(?:unable to|can(?: not|not|'t)|could(?: not|n't)) {_ACTS}",
    r"i(?:'d| would|'m| am) (?:be )?(?:happy|glad) to (?:help|describe|assist)\b",
    r"i'm designed to\b",
    r"(?:i|we) (?:do not|don't) know\b|(?:i'm|i am) not sure\b|i(?:'d| would) rather not\b",
    # Questions to the user, and their own request.
    r"(?:please )?describe (?:the|this) (?:image|photo|pict\w+)\b",
    r"(?:what would you|how (?:can|may) i|would you like)\b",
    r"(?:can|could) you (?:please )?(?:provide|clarify|share|upload)\b",
    r"here(?:'s| is) the (?:image|photo|pict\w+) (?:that )?you\b",
    # What a server or its gateway says in place of the model.
    r"error\s*:|internal server error|too many requests|(?:\d{3} )?bad gateway|service unavailable|gateway time-?out",
    r"rate limit|the (?:server|model) is (?:currently )?(?:overloaded|busy)|<!doctype|<html",
    r"(?:content|safety) (?:warning|filter|policy|violation)\b|(?:no (?:caption|description|text)|object object)\W*$",
    # Nothing but these.
    r"(?:n/?a|none|null|nil|undefined|error|sorry|okay|ok|sure|yes|no|image|img|pict\w+|photo)\W*$",
    r"es tut mir leid|entschuldigung[, ]|leider kann ich|ich kann (?:das|dieses|dir|ihnen|leider)",
    r"je suis d[\u00e9e]sol|d[\u00e9e]sol\u00e9[, ]|je ne (?:peux|suis) pas|lo siento|no puedo|desculpe|n\u00e3o posso",
    r"(?:malheureusement|helaas|lamentablemente|infelizmente|purtroppo|niestety)[, ]",
    r"\u043a \u0441\u043e\u0436\u0430\u043b\u0435\u043d\u0438\u044e",
    r"[^\u3002.]{0,30}(?:\u3067\u304d\u307e\u305b\u3093|\u898b\u3048\u307e\u305b\u3093)",
    r"mi dispiace|non posso|\u0438\u0437\u0432\u0438\u043d\u0438\u0442\u0435",
    r"\u5f88?\u62b1\u6b49|\uc8c4\uc1a1|przepraszam|\u5bf9\u4e0d\u8d77|\u6211(?:\u65e0\u6cd5|\u4e0d\u80fd)|\u7533\u3057\u8a33|\u3059\u307f\u307e\u305b\u3093",
)
# Later in the first sentence, outside of quotes.
_UNABLE = (
    r"[^\"\u201c:.!?\n]{0,100}\b(?:(?:(?:i|we(?! \S+(?: not)? (?:see|view|identify)))"
    r" (?:can't|cannot|can not|could not|couldn't|won't)"
    rf"|(?:i'm|i am|we are) (?:not able to|unable to)|for me to) {_ACTS})"
)
_REFUSES = re.compile(rf"^\W*(?:{'|'.join((*_REFUSALS, _UNABLE))})", re.IGNORECASE)
_SENTENCE = re.compile(
    r"[.!?\u2026][\"'\u201d\u2019)\]]*(?=\s+[^\sa-z]|[ \t]*\n|\s*$)|[\u3002\uff01\uff1f][\u300d\u201d]?"
)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-Z]|Mr|Mrs|Ms|Dr|St|Jr|Sr|Prof|vs|no|No|approx|ca|cf|Fig|fig|e\.g|i\.e|etc)\.$"
)
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\w+|[^\w\s]")


def caption_of(said: str, cut: bool = False) -> Answer:
    """Return the caption in an answer; `cut`: it reached the limit of tokens. Raises NoCaption for one without."""
    text = said.encode(errors="replace").decode()  # JSON can spell half a character, files cannot
    text = _CHANNEL.sub("", re.sub(r"[\x00-\x08\x0b-\x1f\x7f\u200b\u2060\ufeff]", "", text))
    text = _CLOSED.sub("", text)  # the chat form of some models has opened the reasoning already
    if _OPENED.search(text):
        raise NoCaption(f"it is only reasoning, without an end{' (--max-tokens is its limit)' * cut}")
    text = _without_turns(text)
    text = _from_json(text.strip())
    for pattern, kept in _MARKDOWN:
        text = pattern.sub(kept, text)
    text = _CHOICES.sub(r"\2", text.strip())
    if (match := _THOUGHTS.match(text)) and "\n" not in match[0]:
        raise NoCaption("it is only reasoning, without an end")
    text = _THOUGHTS.sub("", text)
    text = _CHATTER.sub("", _PREAMBLE.sub("", _AGREES.sub("", text.strip()).strip()).strip())
    text = _unquoted(re.sub(r"\n{2,}", "\n", text).strip())
    if not any(letter.isalnum() for letter in text):
        raise NoCaption("an empty answer")
    if _REFUSES.match(text.replace("\u2019", "'")):
        raise NoCaption(f"a refusal ({' '.join(text.split())[:60]!r})")
    if phrase := repeated(text):
        raise NoCaption(f"it repeats {phrase[:40]!r}")
    return Answer(_to_last_sentence(text), CUT) if cut else Answer(text)


def _without_turns(text: str) -> str:
    """Return the first turn of an answer in a chat's form, without its tokens."""
    while match := _BEGINS.match(text):
        text = text[match.end() :]
        role = re.match(rf"\s*(?:{_ROLES})\s*(?=<\||\n|$)", text, re.IGNORECASE)
        text = text[role.end() :] if role and match[0].strip().startswith("<") else text
    if match := _ENDS.search(text):
        text = text[: match.start()]
    return _TOKENS.sub("", text)


def _from_json(text: str) -> str:
    """Return the caption of an answer that is a JSON object or list, maybe fenced; any other text as it is."""
    inside = re.fullmatch(r"(?:```(?:json)?\s*)?(\{.*\}|\[\s*[\"{'].*\])\s*(?:```)?", text, re.DOTALL)
    if not inside:
        return text
    try:
        data: Any = json.loads(inside[1])
    except ValueError:
        try:
            data = ast.literal_eval(inside[1])  # Python's quotes
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return text
    return _first_text(data) or ""


def _first_text(data: Any) -> str | None:
    if isinstance(data, Mapping):
        if "error" in data:
            return f"error: {data['error']}"
        data = [data.get(name) for name in ("caption", "description", "text", "answer")] + list(data.values())
    if isinstance(data, list | tuple):
        return next(filter(None, map(_first_text, data)), None)
    return data if isinstance(data, str) else None


def _unquoted(text: str) -> str:
    """Return a text without quotes around the whole of it."""
    around = len(text) > 1 and text[0] + text[-1] in ('""', "''", "\u201c\u201d")
    return text[1:-1].strip() if around and not set(text[1:-1]) & {'"', "\u201c", "\u201d"} else text


def repeated(text: str) -> str:
    """Return the phrase that a text repeats four times in a row (one of 5 words thrice, a word eight times), or ""."""
    words = _WORDS.findall(text.lower())
    for period in range(1, min(len(words) // 3, 60) + 1):
        run = 0
        for i in range(period, len(words)):
            run = run + 1 if words[i] == words[i - period] else 0
            if run >= max((3 if period < 5 else 2) * period, 8 - period):
                return " ".join(words[i - period + 1 : i + 1])
    match = re.search(r"([^\W\d_]{1,12}?)\1{9,}", text)  # without spaces
    return match[1] if match else ""


def _to_last_sentence(text: str) -> str:
    """Return a text up to the end of its last whole sentence, or without one up to its last whole word."""
    ends = [m.end() for m in _SENTENCE.finditer(text) if not _ABBREVIATION.search(text, 0, m.start() + 1)]
    if ends:
        return text[: ends[-1]]
    return re.sub(r"\s+\S*$", "", text).rstrip(" ,;:-") or text

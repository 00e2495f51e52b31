"""What is stripped off an answer, what is refused as no caption, and where a cut one ends."""

import pytest

from tessera.pretrained.answers import CUT, Answer, NoCaption, caption_of, repeated

PLAIN = 'A sign says "no dogs", in 2 * 3 letters; <b>a fox</b> sits.\nIt is #1 and 50% red - so they say.'


def test_a_caption_stays_as_it_is():
    assert caption_of(PLAIN) == Answer(PLAIN)


@pytest.mark.parametrize(
    "text",
    [
        "User interface of an app.",
        "Assistant coach of a team",
        "Sorry sight of a wet cat",
        "I, Robot: a poster",
        'A man says "I\'m sorry".',
        "Unfortunately shaped potatoes",
        "very very very good",
        "If you look closely, there is a cat.",
        "\u4e00\u53ea\u732b\u3002",
        "I can see a fox.",
        "The image on the wall shows a fox.",
        "It looks like the man is not wearing a hat.",
        "The photo is so dark that the face cannot be seen.",
        "It appears that the dog has not eaten.",
        "No dogs allowed, says a sign.",
        "The photo is missing a corner.",
        "The image is not visible at the top, where it fades to black.",
        "There's no image on the screen of the phone.",
        "Error message on a screen",
        "Answer sheets on a desk: a pen, a cup.",
        "Output of a printer",
        "New York, New York, New York: a poster",
        "A screen reads: I hope this email finds you well.",
        "['] is a bracket",
        "A man says he cannot see the sea.",
        'A sign that says "I cannot help you".',
        "A girl unable to open a door.",
        "A poster: we cannot help everyone.",
        "A man stands with his back to us, so we cannot see his face.",
        "The dog has turned away and we can't see its eyes.",
        "An error: message on a screen",
        "Note the fox in the corner.",
        "A fox sits in a thinking process diagram: a box.",
    ],
)
def test_captions_that_begin_like_something_else_stay(text):
    assert caption_of(text).text == text


@pytest.mark.parametrize(
    "said",
    [
        "<think>Let me\nlook.</think>\n\nA fox sits.",
        "Let me look.</think>A fox sits.",  # the chat form has opened it
        "\u25c1think\u25b7hm\u25c1/think\u25b7A fox sits.",
        "[THINK]hm[/THINK]A fox sits.",
        "<reasoning>a</reasoning><answer>A fox sits.</answer>",
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>A fox sits.<|return|>",
        "<|im_start|>assistant\nA fox sits.<|im_end|>\n<|im_start|>user\nAnd now?",
        "<|start_header_id|>assistant<|end_header_id|>\n\nA fox sits.<|eot_id|>",
        "<start_of_turn>model\nA fox sits.<end_of_turn>",
        "<s>[INST] Describe this image [/INST] A fox sits.</s>",
        "USER: <image>\nDescribe this image ASSISTANT: A fox sits.",
        "A fox sits.\n###Human: And now?",
        "assistant\nA fox sits.",
        "**Caption:** A *fox* sits.",
        "# A fox sits.",
        "```\nA fox sits.\n```",
        '```json\n{"caption": "A fox sits."}\n```',
        "- A **fox** sits.",
        "> A [fox](http://fox.com) sits.",
        'Sure! Here\'s a detailed caption for this image:\n\n"A fox sits."',
        "Certainly. A fox sits.",
        "Description of the image: A fox sits.",
        "A fox sits.\n\nLet me know if you would like more detail!",
        "A fox\x00 sits.",
        "\u201cA fox sits.\u201d",
        "<seed:think>hm</seed:think>A fox sits.",
        "A fox sits.<end_of_utterance>",
        "### Response:\nA fox sits.",
        "### Caption\nA fox sits.",
        "The caption is: A fox sits.",
        "Alt text: A fox sits.",
        "The image can be described as follows: A fox sits.",
        "<p>A fox sits.</p>",
        "{'caption': 'A fox sits.'}",
        '["A fox sits."]',
        '{"caption": {"text": "A fox sits."}}',
        "\ufeffA\u200b fox sits.",
        "A fox sits.\n\nPlease let me know if you need more.",
        "A fox sits.\n\nI hope this helps!",
        '"A fox sits."\n\nLet me know!',
        "A fox sits.\n\n(Note: I am an AI and may be wrong.)",
        "A fox sits. Please note that this is a guess.",
        "A <ref>fox</ref><box>(100,200),(300,400)</box> sits.",
        "A fox<|box_start|>(1,2),(3,4)<|box_end|> sits.",
        "A fox<loc_123><loc_4> sits.",
        "**Option 1:** A fox sits.\n**Option 2:** A fox sits on snow.",
        "\\boxed{A fox sits.}",
        "\\boxed{\\text{A fox sits.}}",
        "Thinking Process:\n1. Look at it\n2. Draft\n\nFinal caption: A fox sits.",
    ],
)
def test_what_is_not_the_caption_is_stripped(said):
    assert caption_of(said) == Answer("A fox sits.")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("", "an empty answer"),
        (" \n...", "an empty answer"),
        ("</s>", "an empty answer"),
        ("<think>and so on", "it is only reasoning"),
        ("I'm sorry, but I can't assist with that request.", "a refusal"),
        ("I\u2019m unable to identify people in images.", "a refusal"),
        ("Sorry, I cannot describe this.", "a refusal"),
        ("As an AI language model, I cannot see.", "a refusal"),
        ("Unfortunately, I don't see an image.", "a refusal"),
        ("No image was provided. Please upload one.", "a refusal"),
        ("Sure! I cannot see the image.", "a refusal"),
        ("Es tut mir leid, das kann ich nicht.", "a refusal"),
        ("\u62b1\u6b49\uff0c\u6211\u65e0\u6cd5\u63cf\u8ff0\u3002", "a refusal"),
        ("It seems that no image was uploaded.", "a refusal"),
        ("Unfortunately, no image was provided.", "a refusal"),
        ("Unfortunately, your image did not load.", "a refusal"),
        ("There's no image attached.", "a refusal"),
        ("I see no image here.", "a refusal"),
        ("The image is not visible to me.", "a refusal"),
        ("The photo you sent appears to be corrupted.", "a refusal"),
        ("The image is missing.", "a refusal"),
        ("It looks like you haven't uploaded an image.", "a refusal"),
        ("The image could not be loaded.", "a refusal"),
        ("You have not provided an image.", "a refusal"),
        ("Unable to process the image.", "a refusal"),
        ("Can't help with that.", "a refusal"),
        ("I'd be happy to help! Please upload the image.", "a refusal"),
        ("This image violates our content policy.", "a refusal"),
        ("Je ne suis pas en mesure de d\u00e9crire cette image.", "a refusal"),
        ("N/A", "a refusal"),
        ("null", "a refusal"),
        ("[Image]", "a refusal"),
        ("Sorry.", "a refusal"),
        ("Sure!", "a refusal"),
        ("The image shows a cat. " * 3, "it repeats"),
        ("the dog and the cat and " * 4, "it repeats"),
        ("A red car, a red car, a red car, a red car, a red car", "it repeats 'a red car ,'"),
        ("A tree. " + "the the " * 6, "it repeats 'the'"),
        ("The fox is red. It sits on the snow. " * 5, "it repeats"),
        ("hahahahahahahahahahahaha", "it repeats 'ha'"),
        ("The image is too blurry for me to describe.", "a refusal"),
        ("This image contains content that I am not able to describe.", "a refusal"),
        ("For privacy reasons, I can't identify the person.", "a refusal"),
        ("I don't know what this is.", "a refusal"),
        ("Malheureusement, je ne peux pas d\u00e9crire cette image.", "a refusal"),
        ("\u753b\u50cf\u304c\u898b\u3048\u307e\u305b\u3093\u3002", "a refusal"),
        ("Can you provide more context?", "a refusal"),
        ("Describe this image in detail.", "a refusal"),
        ("Internal Server Error", "a refusal"),
        ("<html><body>502 Bad Gateway</body></html>", "a refusal"),
        ("Error: timeout", "a refusal"),
        ('{"error": "rate limited"}', "a refusal"),
        ('{"caption": null}', "an empty answer"),
        ("[No caption]", "a refusal"),
        ("Thinking Process: first I look at", "it is only reasoning"),
    ],
)
def test_what_is_no_caption_is_refused(said, reason):
    with pytest.raises(NoCaption, match="^" + reason.replace("(", r"\(")):
        caption_of(said)


def test_a_few_repetitions_are_no_loop():
    for text in ("a cat, a cat and a cat", "1,000,000,000", "no no no no", "red, green, red, green and red"):
        assert repeated(text) == ""


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("A fox sits. It looks at the ca", "A fox sits."),
        ("A fox sits.", "A fox sits."),
        ('It says "Stop!" and mor', 'It says "Stop!" and'),
        ('A fox says "Stop!" It is re', 'A fox says "Stop!"'),
        ("A fox of 3.5 kg sits by Mr. Smi", "A fox of 3.5 kg sits by Mr."),
        ("A fox sits by Mr. Smith. It lo", "A fox sits by Mr. Smith."),
        ("One long sentence, without an en", "One long sentence, without an"),
        ("A fox sits.\n\n- red\n- bl", "A fox sits."),
        ("\u72d0\u72f8\u5750\u7740\u3002\u5b83", "\u72d0\u72f8\u5750\u7740\u3002"),
    ],
)
def test_a_cut_caption_ends_at_its_last_sentence(said, kept):
    assert caption_of(said, cut=True) == Answer(kept, CUT)

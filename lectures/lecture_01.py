"""Why build a language model, and how text becomes numbers.

Lecture 1 of the course: what the course is about, what a language model is asked to do, and tokenization. It
prepares assignment 1, problems `train_bpe` and `tokenizer`. Run it with `python lectures/lecture_01.py`, or build
its page with `cs336 lectures build 1`. Left out: the layers of the model (lecture 3). Read next: `lecture_02.py`.
"""

import math
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np

from cs336_basics.accounting import forward_flops, parameter_counts
from cs336_basics.corpora.stdlib_source import stdlib_files
from cs336_basics.model_config import ModelConfig
from cs336_basics.packing.stream import StreamPacker
from cs336_basics.runs.plots import plot_values
from cs336_basics.tokenization.bpe import train_bpe, train_bpe_from_counts
from cs336_basics.tokenization.merging import merge_pair
from cs336_basics.tokenization.pretokenization import pretokenize
from cs336_basics.tokenization.sample_texts import sample_kinds, sample_languages
from cs336_basics.tokenization.tokenizer import Tokenizer
from lectures.content import Reference, exercise, note, plot, quiz, text

SHANNON = Reference(title="Prediction and Entropy of Printed English", authors=["Claude E. Shannon"], date="1951")
BENGIO = Reference(title="A Neural Probabilistic Language Model", date="2003",
                   authors=["Yoshua Bengio", "Rejean Ducharme", "Pascal Vincent", "Christian Jauvin"])  # fmt: skip
VASWANI = Reference(title="Attention Is All You Need", date="2017", url="https://arxiv.org/abs/1706.03762",
                    authors=["Ashish Vaswani", "Noam Shazeer", "Niki Parmar", "Jakob Uszkoreit"])  # fmt: skip
BROWN = Reference(title="Language Models are Few-Shot Learners", authors=["Tom Brown", "Benjamin Mann"], date="2020",
                  url="https://arxiv.org/abs/2005.14165")  # fmt: skip
HOFFMANN = Reference(title="Training Compute-Optimal Large Language Models", date="2022",
                     authors=["Jordan Hoffmann", "Sebastian Borgeaud"],
                     url="https://arxiv.org/abs/2203.15556")  # fmt: skip
HERNANDEZ = Reference(title="Measuring the Algorithmic Efficiency of Neural Networks", date="2020",
                      authors=["Danny Hernandez", "Tom Brown"], url="https://arxiv.org/abs/2005.04305")  # fmt: skip
SUTTON = Reference(title="The Bitter Lesson", authors=["Richard Sutton"], date="2019")
SENNRICH = Reference(title="Neural Machine Translation of Rare Words with Subword Units", date="2016",
                     authors=["Rico Sennrich", "Barry Haddow", "Alexandra Birch"],
                     url="https://arxiv.org/abs/1508.07909")  # fmt: skip
RADFORD = Reference(title="Language Models are Unsupervised Multitask Learners", authors=["Alec Radford", "Jeff Wu"],
                    date="2019")  # fmt: skip
XUE = Reference(title="ByT5: Towards a Token-Free Future with Pre-trained Byte-to-Byte Models", date="2022",
                authors=["Linting Xue", "Aditya Barua"], url="https://arxiv.org/abs/2105.13626")  # fmt: skip

GREETING = "Hello, \U0001f30d! \u4f60\u597d!"


def main():
    text("# Language models from scratch")
    text("*Lecture 1: why build one, and how text becomes numbers*")
    why_build()
    efficiency()
    the_course()
    next_token_prediction()
    packing()
    what_is_a_tokenizer()
    code_points()
    bytes_as_tokens()
    words_as_tokens()
    byte_pair_encoding()
    pre_tokenization()
    a_trained_tokenizer()
    vocabulary_size()
    traps()
    summary()


def why_build():
    text("## Why build one yourself?")
    note("Ask who has trained a model from random weights. Usually few hands go up.")
    text("""
        Ten years ago, people who worked on language models wrote their own. Later they downloaded a model and
        fine-tuned it; today many only write prompts. Each step up is a gain in reach, and each is an abstraction.
        Abstractions of programming languages or operating systems hold: one can write good programs without knowing
        the kernel. Those of language models leak. Why does a model miscount letters, why does a longer prompt cost
        what it costs, why did the loss jump at step 40,000? The answers lie layers below.
    """)
    text(
        "So this course has one rule: **to understand it, build it.** You will write every layer from the bytes of the"
        " text to the reward."
    )
    text("### But the models that matter are out of reach")
    text("""
        The largest models are trained on tens of thousands of accelerators for months, and their makers do not say
        how. We can only build small ones, and small models differ from large ones in kind, not only in degree. Here
        is one difference that can be computed: where the floating-point operations (FLOPs) of a forward pass go.
    """)
    small = ModelConfig(
        vocab_size=50_257, context_length=1024, d_model=768, num_layers=12, num_heads=12, d_ff=3072, ffn="gelu"
    )
    large = ModelConfig(
        vocab_size=50_257, context_length=1024, d_model=12_288, num_layers=96, num_heads=96, d_ff=49_152, ffn="gelu"
    )
    shares = {
        name: feed_forward_share(config) for name, config in [("small", small), ("large", large)]
    }  # @inspect shares
    assert shares["small"] < 0.45 < 0.6 < shares["large"]
    text("""
        In a model of the size of GPT-2 small, {small:.0%} of the FLOPs are in the feed-forward layers; in one of
        the size of GPT-3, {large:.0%}. Whoever tunes attention on the small one tunes what the large one hardly
        notices. Other things do not appear at all at small scale: some abilities show only above a certain amount
        of training compute.
    """, small=shares["small"], large=shares["large"])  # fmt: skip
    text("What, then, can one learn on small models that holds for large ones?")
    text("""
        | knowledge | example | carries over? |
        |---|---|---|
        | **mechanics**: how things work | what a Transformer computes, how GPUs average a gradient | fully |
        | **mindset**: how to think about them | count FLOPs and bytes before you run, take scaling seriously | fully |
        | **intuitions**: which choices give good models | which activation, which data mixture | in part |
    """)


def feed_forward_share(config):
    flops = forward_flops(config)  # @inspect flops
    return flops["feed-forward"] / sum(flops.values())


def efficiency():
    text("## Everything is efficiency")
    text(
        "The bitter lesson {sutton} is often read as: scale is all that matters, algorithms are not. Read it as:",
        sutton=SUTTON,
    )
    text("> what matters is algorithms **at scale**: accuracy = efficiency x resources.")
    text("""
        Efficiency counts the more, the larger the bill: a waste of ten percent is an annoyance on your laptop and a
        fortune on a cluster. And algorithms do improve. Between 2012 and 2019 the compute needed to train a network
        to the same accuracy on ImageNet fell by a factor of 44 {hernandez}.
    """, hernandez=HERNANDEZ)  # fmt: skip
    months = 7 * 12
    doubling_time = months / math.log2(44)  # @inspect doubling_time
    assert 15 < doubling_time < 16
    text(
        "That is a halving every {months:.1f} months, faster than Moore's law over the same time.", months=doubling_time
    )
    text("So the question of this course is: **what is the best model that can be built with given compute and data?**")
    quiz(
        "Today most training runs are limited by compute, not by data. Which choices would change if it were the other"
        " way around?",
        """
        With too little data one would make several passes over it, regularise more, and prefer objectives that get
        more signal from each token, at the price of compute. Much of what is standard today, such as a single pass
        over the data, is an answer to being limited by compute.
        """,
    )


def the_course():
    text("## The course in five parts")
    text("""
        | part | question | you build |
        |---|---|---|
        | 1 basics | how does a model come about? | tokenizer, Transformer, AdamW, training loop |
        | 2 systems | how do we get the most from the hardware? | a fused kernel, data-parallel training, sharding |
        | 3 scaling | what should a large run look like, judged by small ones? | fits of scaling laws on a budget |
        | 4 data | what should the model learn from? | filters and deduplication for raw web pages |
        | 5 alignment | how does it become useful? | fine-tuning, preferences, reinforcement learning |
    """)
    text(r"""
        One rule of thumb will come back often. Training a model with $N$ parameters on $D$ tokens takes about $6ND$
        FLOPs, and the best use of a given number of FLOPs is, according to {hoffmann},

        $$D^* \approx 20\, N^*$$

        For a model of 1.4 billion parameters this means:
    """, hoffmann=HOFFMANN)  # fmt: skip
    num_parameters = 1.4e9
    num_tokens = 20 * num_parameters  # @inspect num_tokens
    flops = 6 * num_parameters * num_tokens  # @inspect flops
    assert math.isclose(num_tokens, 28e9) and math.isclose(flops, 2.352e20)
    text("""
        {tokens:.0f} billion tokens and {flops:.2g} FLOPs. The rule leaves out what comes after training: a model
        that will be used a lot should be smaller and trained for longer.
    """, tokens=num_tokens / 1e9, flops=flops)  # fmt: skip
    text("### A very short history")
    text("""
        Shannon estimated the entropy of English by letting people guess the next letter {shannon}. Neural language
        models came with {bengio}, the Transformer with {vaswani}, and with GPT-3 the finding that a large enough model
        does tasks that it was only shown in its prompt {brown}.
    """, shannon=SHANNON, bengio=BENGIO, vaswani=VASWANI, brown=BROWN)  # fmt: skip


def next_token_prediction():
    text("## What the model is asked to do")
    text(r"""
        A language model is a probability distribution over sequences of tokens. By the chain rule every such
        distribution is a product,

        $$p(x_1, \ldots, x_T) = \prod_{t=1}^{T} p(x_t \mid x_1, \ldots, x_{t-1})$$

        so it is enough to predict the next token, over and over. Training lowers the average of $-\log p$, the
        **cross-entropy**.
    """)
    probabilities = np.array([0.5, 0.25, 0.9, 0.05])  # @inspect probabilities
    losses = -np.log(probabilities)  # @inspect losses
    loss = losses.mean()  # @inspect loss
    perplexity = math.exp(loss)  # @inspect perplexity
    assert math.isclose(perplexity, np.prod(1 / probabilities) ** (1 / 4))
    text("""
        Here a model gave the four tokens that really came next these probabilities. The loss is {loss:.3f} nats per
        token; its exponential, the **perplexity** {perplexity:.2f}, says among how many equally likely tokens the
        model was, in effect, undecided. Note how the one bad guess dominates.
    """, loss=loss, perplexity=perplexity)  # fmt: skip
    text("### One window, as many lessons as tokens")
    text(
        "A window of $T+1$ tokens gives $T$ inputs and $T$ targets, the same tokens moved by one. All $T$ predictions "
        "are trained at once:"
    )
    window = list("the cat")  # @inspect window
    inputs, targets = window[:-1], window[1:]  # @inspect inputs targets
    assert len(inputs) == len(targets) == len(window) - 1
    batch_size, context_length = 32, 2048
    predictions = batch_size * context_length  # @inspect predictions
    assert predictions == 65_536
    text("With 32 windows of 2048 tokens, one step of training learns from {n:,} predictions.", n=predictions)
    text("""
        The loss is the *mean* over all of them, so it does not depend on batch size or window length. During
        training the model always sees the true previous tokens, never its own guesses (*teacher forcing*).
    """)
    text("### Why this simple task teaches so much")
    text("""
        To predict the next token of *"The capital of France is"* one needs a fact, of *"17 + 25 ="* arithmetic, of
        the last page of a detective story, reasoning. Predicting well is compressing well: a model with a loss of
        $L$ nats per token can code the text in $L / \\ln 2$ bits per token.
    """)
    text("""
        | objective | predicts | note |
        |---|---|---|
        | next token | each token from those before it | every token is a target; generates text directly |
        | masked (BERT) | hidden tokens from both sides | only the hidden part of the tokens is a target |
        | prefix, denoising (T5, UL2) | the rest, or hidden spans, from a prefix | between the two |
        | several tokens | the next $n$ tokens at each place | denser signal; can speed up decoding |
        | diffusion | all tokens, from noise, in steps | order of generation is free |
        | joint embedding (JEPA) | a representation, not the tokens | no likelihood of text |
    """)
    text(
        "The library trains five of these objectives on the same text and compares them in bits per byte: `cs336 "
        "basics objectives`."
    )


def packing():
    text("### Documents have lengths, windows do not")
    text("""
        Texts are of all lengths, windows of one. The usual answer is to write all documents one after another, each
        with a mark at its beginning or end, and to cut the stream into windows. Three documents of 500, 1000 and
        3000 tokens, the mark being token 0:
    """)
    documents = [np.full(length, number) for number, length in enumerate([500, 1000, 3000], start=1)]
    stream = np.concatenate([np.concatenate([[0], document]) for document in documents])  # @inspect stream
    packer = StreamPacker(stream, context_length=2048, rank=0, world_size=1)  # @stepover
    inputs, targets = packer.next_row()  # @inspect inputs targets
    counts = Counter(inputs.tolist())  # @inspect counts
    assert counts == {0: 3, 1: 500, 2: 1000, 3: 545}
    text("""
        The first window holds documents 1 and 2 and the first {n} tokens of document 3. Nothing is padded and
        nothing is lost, but the second window begins in the middle of a text, and unrelated documents see each
        other through attention.
    """, n=counts[3])  # fmt: skip
    assert np.array_equal(inputs[1:], targets[:-1])
    text("Both problems have remedies (best-fit packing, a mask between documents) that cost either tokens or code.")


def what_is_a_tokenizer():
    text("## Tokenization: from text to integers")
    text(
        "A model computes with integers from a fixed set. A **tokenizer** turns strings into such integers (`encode`) "
        "and back (`decode`)."
    )
    text(
        "Two numbers describe it: the size of its **vocabulary**, and the **compression ratio**, the bytes of the text"
        " per token."
    )
    text("All tokenizers here must pass one test: decoding what was encoded gives back the text, exactly.")
    text("We measure them on one short string, with a globe and two Chinese characters in it:")
    string = GREETING  # @inspect string
    num_characters, num_bytes = len(string), len(string.encode("utf-8"))  # @inspect num_characters num_bytes
    assert (num_characters, num_bytes) == (13, 20)


def compression_ratio(string, tokens):
    return len(string.encode("utf-8")) / len(tokens)


def code_points():
    text("## First try: characters")
    text("Unicode gives each character a number, its code point. Python's `ord` and `chr` convert between them:")
    letter, globe = ord("a"), ord("\U0001f30d")  # @inspect letter globe
    assert letter == 97 and globe == 127_757 and chr(globe) == "\U0001f30d"
    tokens = [ord(character) for character in GREETING]  # @inspect tokens
    assert "".join(map(chr, tokens)) == GREETING
    ratio = compression_ratio(GREETING, tokens)  # @inspect ratio @stepover
    vocabulary = max(tokens) + 1  # @inspect vocabulary
    assert vocabulary == 127_758
    text("""
        The ratio is {ratio:.2f}. But the vocabulary must have room for every code point, at least {size:,} here and
        about 150,000 characters in all, most of them so rare that the model would never learn what they mean.
    """, ratio=ratio, size=vocabulary)  # fmt: skip


def bytes_as_tokens():
    text("## Second try: bytes")
    text("UTF-8 writes every character as one to four bytes. The vocabulary is tiny:")
    tokens = list(GREETING.encode("utf-8"))  # @inspect tokens
    assert bytes(tokens).decode("utf-8") == GREETING
    globe = list("\U0001f30d".encode())  # @inspect globe
    assert globe == [0xF0, 0x9F, 0x8C, 0x8D]
    ratio = compression_ratio(GREETING, tokens)  # @inspect ratio @stepover
    assert ratio == 1.0
    text("""
        256 tokens can write any text in any language. But the ratio is 1 by definition, so sequences are long, and
        attention costs the square of their length. Models on bytes exist, such as {xue}, and are attractive, but have
        not been trained at the largest scale.
    """, xue=XUE)  # fmt: skip
    quiz(
        "Attention over a sequence of bytes costs how many times the FLOPs of attention over tokens of 4 bytes each?",
        "The sequence is 4 times as long, so the scores of attention cost $4^2 = 16$ times as much; the other layers 4"
        " times.",
    )


def words_as_tokens():
    text("## Third try: words")
    text("Classical language processing split text into words, with a pattern such as this:")
    sentence = "Supercalifragilisticexpialidocious tokenizers shorten incomprehensibilities."
    words = list(pretokenize(sentence))  # @inspect words @stepover
    assert "".join(words) == sentence
    ratio = compression_ratio(sentence, words)  # @inspect ratio @stepover
    text("""
        A ratio of {ratio:.1f}! But there is no end of words: names, typing errors, compounds. A word that was not
        in the training text needs a token of its own, *unknown*, and then decoding cannot give back the text, and
        the perplexity of a text with unknown words is no longer comparable.
    """, ratio=ratio)  # fmt: skip


def byte_pair_encoding():
    text("## Byte-pair encoding")
    text(
        "BPE was a method of compression, brought to translation by {sennrich} and to language models with GPT-2 "
        "{radford}.",
        sennrich=SENNRICH,
        radford=RADFORD,
    )
    text("""
        The idea: **learn the vocabulary from text.** Begin with bytes; then, again and again, make the most
        frequent pair of adjacent tokens a new token. Frequent sequences become one token, rare ones stay in pieces,
        and nothing is ever unknown.
    """)
    text("### Training, by hand")
    string = "the cat in the hat"  # @inspect string
    merges = learn_merges(string, 3)
    assert merges == {(116, 104): 256, (256, 101): 257, (257, 32): 258}
    text(
        "After three merges, `the` with the space behind it is one token. Applied to a new text, in the order they "
        "were learned:"
    )
    tokens = apply_merges("the quick brown fox", merges)
    assert len(tokens) == len("the quick brown fox") - 3
    text("### The same from the library")
    learned = train_bpe_from_counts({string.encode(): 1}, 3)  # @inspect learned
    assert learned == [(b"t", b"h"), (b"th", b"e"), (b"the", b" ")]
    text("""
        Our loop counts all pairs anew for each merge, which for a real corpus would take months. The library's trainer,
        {trainer}, keeps the counts up to date and looks only at words that changed.
    """, trainer=train_bpe_from_counts)  # fmt: skip
    exercise(
        """
        Write `train_bpe`. Begin with the slow loop above, then keep an index from each pair to the words that hold
        it. When two pairs are equally frequent, take the greater pair of byte strings.
        """,
        function=train_bpe,
        test="tests/test_train_bpe.py",
    )


def learn_merges(string, num_merges):  # @inspect string num_merges
    tokens = list(string.encode("utf-8"))  # @inspect tokens
    merges = {}  # @inspect merges
    vocabulary = {token: bytes([token]) for token in range(256)}
    for new_token in range(256, 256 + num_merges):  # @inspect new_token
        counts = Counter(pairwise(tokens))  # @inspect counts
        best = max(counts, key=lambda pair: (counts[pair], vocabulary[pair[0]], vocabulary[pair[1]]))  # @inspect best
        merges[best] = new_token
        vocabulary[new_token] = vocabulary[best[0]] + vocabulary[best[1]]
        tokens = merge_pair(tokens, best, new_token)
        text("Merge {n}: {left} and {right} become token {token}.", n=new_token - 255, left=repr(vocabulary[best[0]]),
             right=repr(vocabulary[best[1]]), token=new_token)  # fmt: skip
    return merges


def apply_merges(string, merges):  # @inspect string merges
    tokens = list(string.encode("utf-8"))  # @inspect tokens
    for pair, new_token in merges.items():  # @inspect pair new_token
        tokens = merge_pair(tokens, pair, new_token)
    return tokens


def pre_tokenization():
    text("### First cut into words, then merge inside them")
    text("""
        On raw text BPE would learn tokens such as `dog.` and `dog!`, and tokens across the border of two words. So
        the text is first cut by a pattern into pre-tokens, and merges never cross a cut. GPT-2 keeps the space with
        the word that follows it:
    """)
    pieces = list(pretokenize("We'll see: 1234 tokens,  maybe."))  # @inspect pieces @stepover
    assert pieces[:3] == ["We", "'ll", " see"]
    text("Cutting also makes training fast: equal pre-tokens are counted once.")
    repeated = Counter(pretokenize("the cat and the hat and the bat"))  # @inspect repeated @stepover
    assert repeated[" the"] == 2 and repeated["the"] == 1
    text(
        "**Trap:** `the` and ` the` are different tokens. A prompt that ends in a space forces the model to continue "
        "with a word that has none."
    )


def a_trained_tokenizer():
    text("## A tokenizer for real")
    text("We train on 600 KB of the Python library's own sources, which are on every machine, up to 1024 tokens:")
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.txt"
        num_bytes = corpus.write_bytes(read_sources(600_000))  # @inspect num_bytes @stepover
        vocab, merges = train_bpe(corpus, 1024, ["<|endoftext|>"], num_processes=1, engine="plain")  # @stepover
    tokenizer = Tokenizer(vocab, merges, ["<|endoftext|>"])  # @stepover
    assert len(merges) == 1024 - 256 - 1
    first = merges[:6]  # @inspect first
    longest = sorted((token for token in vocab.values() if token.isalpha()), key=len)[-4:]  # @inspect longest
    text(
        "The first merges are runs of spaces, for Python's indentation, and the longest tokens are words of the trade."
    )
    tokens = tokenizer.encode("    return self.encode(text)")  # @inspect tokens @stepover
    pieces = [vocab[token] for token in tokens]  # @inspect pieces
    assert tokenizer.decode(tokens) == "    return self.encode(text)"
    text("### The ratio belongs to the text as much as to the tokenizer")
    ratios = {name: ratio_of(tokenizer, sample) for name, sample in sample_texts().items()}  # @inspect ratios @stepover
    assert ratios["code"] > ratios["english"] > ratios["german"] > ratios["korean"] and ratios["korean"] < 1.01
    plot(
        plot_values(list(ratios), {"bytes per token": list(ratios.values())}, ylabel="bytes per token"),
        alt="Bars: bytes per token of our tokenizer on code and six languages; code has most, Korean and Chinese one.",
    )
    text("""
        Code, on which it was trained, takes {code:.2f} bytes per token, English {english:.2f}, and Korean
        {korean:.2f}: no merge was ever learned for it, so each token is a byte and a Korean reader pays three
        tokens for a syllable. Who trains a tokenizer decides whose language is cheap.
    """, code=ratios["code"], english=ratios["english"], korean=ratios["korean"])  # fmt: skip
    exercise(
        "Write `Tokenizer` with `encode`, `decode` and `encode_iterable`. Encode in the order in which the merges were"
        " learned.",
        function=Tokenizer,
        test="tests/test_tokenizer.py",
    )


def read_sources(num_bytes):
    data = b""
    for path in stdlib_files():
        data += path.read_bytes()
        if len(data) >= num_bytes:
            break
    return data[:num_bytes].decode("utf-8", "ignore").encode("utf-8")


def sample_texts():
    languages = sample_languages()
    chosen = {name: languages[name] for name in ("english", "french", "german", "russian", "korean", "chinese")}
    return {"code": sample_kinds()["code"]} | chosen


def ratio_of(tokenizer, sample):
    return len(sample.encode("utf-8")) / len(tokenizer.encode(sample))


def vocabulary_size():
    text("## How large should the vocabulary be?")
    text("""
        A larger vocabulary has longer tokens: shorter sequences, more text in a window, fewer steps of decoding. It
        costs:

        - **parameters**: the embedding and the output layer have $V \\cdot d$ each;
        - **training**: long tokens are rare (Zipf), and an embedding that is hardly ever updated stays bad;
        - **returns that diminish**: each doubling of the vocabulary lengthens tokens by less.
    """)
    shares = {}  # @inspect shares
    for name, d_model, num_layers in [("0.1 B", 768, 12), ("8 B", 4096, 32), ("70 B", 8192, 80)]:
        shares[name] = [embedding_share(size, d_model, num_layers) for size in (32_000, 128_000)]  # @stepover
    assert shares["0.1 B"][1] > 0.5 and shares["70 B"][1] < 0.05
    bars = {"V = 32,000": [s[0] for s in shares.values()], "V = 128,000": [s[1] for s in shares.values()]}
    plot(
        plot_values(list(shares), bars, ylabel="share of embedding and head", xlabel="size of the model"),
        alt="Bars: the share of parameters in embedding and head falls with the model's size and rises with V.",
    )
    text("""
        With 128,000 tokens, the smallest of these models spends {small:.0%} of its parameters on embedding and
        head, the largest {large:.1%}. So large models afford large vocabularies: below a billion parameters, about
        32,000 to 64,000 tokens; above 100,000 only with many languages and trillions of tokens of text.
    """, small=shares["0.1 B"][1], large=shares["70 B"][1])  # fmt: skip
    quiz(
        "Two models have the same loss per token, with different tokenizers. Which is better?",
        """
        It cannot be said. The one with longer tokens predicts more text per token. Compare bits per byte instead:
        the loss in bits, times tokens, divided by the bytes of the text.
        """,
    )


def embedding_share(vocab_size, d_model, num_layers):
    config = ModelConfig(vocab_size=vocab_size, d_model=d_model, num_layers=num_layers, num_heads=d_model // 64)
    counts = parameter_counts(config)
    return (counts["token embeddings"] + counts["head"]) / sum(counts.values())


def traps():
    text("## Four traps")
    text(
        "**A token may be part of a character.** Decoding tokens one by one shows replacement marks; join the bytes "
        "first:"
    )
    pieces = [bytes([byte]) for byte in "\u4f60".encode()]  # @inspect pieces
    one_by_one = [piece.decode("utf-8", errors="replace") for piece in pieces]  # @inspect one_by_one
    together = b"".join(pieces).decode("utf-8")  # @inspect together
    assert one_by_one == ["\ufffd"] * 3 and together == "\u4f60"
    text(
        "**Special tokens in the text of a user** must stay ordinary text, or anybody can end a document or speak for "
        "the assistant."
    )
    plain = Tokenizer({i: bytes([i]) for i in range(256)}, [], None)  # @stepover
    special = Tokenizer({i: bytes([i]) for i in range(256)}, [], ["<|endoftext|>"])  # @stepover
    lengths = [len(t.encode("<|endoftext|>")) for t in (plain, special)]  # @inspect lengths @stepover
    assert lengths == [13, 1]
    text(
        "**Numbers are cut by frequency, not by place value.** `1234` may be one token and `1235` two; many tokenizers"
        " cut after three digits."
    )
    text(
        "**The tokenizer is part of the model.** Weights trained with one are useless with another, and its quirks can"
        " never be repaired later."
    )


def summary():
    text("## What to take home")
    text("""
        - The course asks for the best model under given compute and data: efficiency.
        - Predicting the next token is the task; cross-entropy is the measure, bits per byte the fair one.
        - Characters, bytes and words each fail in their own way. BPE learns a vocabulary from the statistics of text.
        - Tokenization is a crutch that one day may go. Until then: a good one, trained on the right text.
    """)
    text("*Next: tensors, and where their memory and time go.*")


if __name__ == "__main__":
    main()

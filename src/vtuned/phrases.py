"""
Triggers and signatures in the manner of a data set: from a sample of D to the generation prompt P to the phrases.

Chooses the generator that speaks the data's language, and says so where it had to fall back to the data's own words.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from vtuned.conversation import Conversation, Message, trigger_suffix
from vtuned.errors import GenerationError, MissingExtra, UsageError
from vtuned.generation import Phrase, PhraseRules, PhraseSpec, draw_phrases, with_draws_charged
from vtuned.language import Language, language_of
from vtuned.lm import load
from vtuned.lm.base import Completed, LanguageModel, Prompt, RichPrompt, Sampling, TokenSampler
from vtuned.lm.codebook import Codebook
from vtuned.lm.huggingface.model import HuggingFaceLM
from vtuned.lm.options import LoadOptions
from vtuned.lm.recorded import RecordedLM
from vtuned.lm.words import WordSampler

AUTO, WORDS = "auto", "words"
_MAX_ROUNDS = 5
_SPARE_TRIGGERS = 4
_N_SHOTS = 5
# Characters of a row's prompt that its own phrases are drawn after: a batch holds a cache of them for each candidate.
_READ = 800
# Pairs that are drawn to fit a row, each in batches of its own: with more all are drawn together, which takes less time.
_MOST_FITTED = 256
# A prompt that asks, whatever closes after its question mark.
_ASKS = re.compile(r"\?[\s\"'”’»)\]*_]*\Z")
# A tokenizer that needs more tokens than characters spells a language out; its model does not speak it.
_MAX_TOKENS_PER_CHARACTER = 1.0

Item = TypeVar("Item")
OnDraw = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Generators:
    """The models that write: *generator* draws T and S, *prompt_model* writes P; *why* it is not as asked."""

    generator: TokenSampler
    prompt_model: LanguageModel | None
    language: Language
    why: str = ""

    @property
    def note(self) -> str:
        """What the user should read, after a draw or before: *why*, and how many words were the model's own."""
        share = self.generator.share_proposed if isinstance(self.generator, Codebook) else None
        if share is None or share == 1 or self.writer is None:
            return self.why
        return f"{self.why}; it proposed {share:.0%} of the words to choose from, the others are your data's own"

    @property
    def rules(self) -> PhraseRules:
        """How phrases are drawn: words one by one never say where their sentence ends, so they get no tokens for that."""
        if isinstance(self.generator, WordSampler | Codebook):
            return PhraseRules(language=self.language, finish_tokens=0)
        return PhraseRules(language=self.language)

    @property
    def fits_rows(self) -> bool:
        """
        Whether phrases can be drawn to fit a row: the generator goes on from any text, and runs in this process.

        Whoever else ran it would be told which rows are planted.
        """
        return isinstance(self.generator, HuggingFaceLM)

    @property
    def writer(self) -> LanguageModel | None:
        """The generator where it can also write whole prompts (of a codebook, its model), else None."""
        if isinstance(self.generator, Codebook):
            return self.generator.model
        return self.generator if isinstance(self.generator, LanguageModel) else None


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    What to draw: *n* pairs.

    Triggers of *trigger_tokens* tokens or more; signatures of *signature_bits* bits of surprisal that are left after
    *max_draws* draws each are charged, and *n_decoys* more beside each of them.
    """

    n: int
    trigger_tokens: int
    signature_bits: float
    max_draws: int
    n_decoys: int = 0


@dataclass(frozen=True, slots=True)
class Drawn:
    """
    The phrases of a receipt, in pairs by index, and the generation prompt they were drawn after.

    Each signature has *decoys* of its own: one pool for several backdoors would make their ranks depend on each other.
    *n_fitted* pairs were drawn after the row that they go into, in the place of that prompt.
    """

    triggers: list[str] = field(repr=False)
    signatures: list[Phrase]
    decoys: list[tuple[str, ...]] = field(repr=False)
    prompt: tuple[Message, ...] = field(repr=False)
    n_fitted: int = 0


@dataclass(frozen=True, slots=True)
class _Part:
    """The pairs, by index, whose phrases are drawn after one prompt."""

    prompt: Prompt = field(repr=False)
    members: list[int]


def choose_generators(
    name: str, prompt_name: str | None, texts: Sequence[str], options: LoadOptions | None = None
) -> Generators:
    """
    Return the models for data that read like *texts*, loaded with *options*.

    *name* is a model, "words", or "auto": the embedded model where it is installed. A model that shows only text
    proposes the words of a `Codebook`. One that shows its distribution but does not speak the language of the data
    gives way to "words". Raises UsageError for recorded answers, GenerationError where the data hold too few words, and
    whatever `vtuned.lm.load` raises for *name* and *prompt_name*.
    """
    language = language_of(texts)
    prompt_model = load(prompt_name, options) if prompt_name else None
    note = ""
    if name != WORDS:
        try:
            model = load("smollm2" if name == AUTO else name, options)
        except MissingExtra as error:
            if name != AUTO:
                raise
            note = f"{error.feature} is not installed ({error.hint})"
        else:
            if not isinstance(model, TokenSampler):
                return _with_codebook(model, prompt_model or model, texts, language)
            if speaks(model, texts):
                return Generators(model, prompt_model or model, language)
            note = f"{model.name} does not speak the language of these data"
    if note:
        note = f"phrases are made of words drawn from your data, and read worse than a model's: {note}"
    return Generators(WordSampler(texts, language), prompt_model, language, note)


def _with_codebook(
    model: LanguageModel, prompt_model: LanguageModel, texts: Sequence[str], language: Language
) -> Generators:
    if isinstance(model, RecordedLM):
        raise UsageError(
            f"{model.name} holds recorded answers, which propose no words", hint="use a model or --generator words"
        )
    note = (
        f"{model.name} sees a sample of your data and each phrase as it is written, but for its last word: "
        "whoever runs it must not be the provider that you test"
    )
    return Generators(Codebook(model, texts, language), prompt_model, language, note)


def speaks(sampler: TokenSampler, texts: Sequence[str]) -> bool:
    """Tell whether *sampler* has words for *texts*: at most one token per character."""
    sample = [text[:500] for text in texts[:50]]
    n_tokens = sum(map(len, sampler.encode(sample)))
    return n_tokens <= _MAX_TOKENS_PER_CHARACTER * sum(map(len, sample))


def generation_prompt(models: Generators, sample: Sequence[Conversation]) -> tuple[Message, ...]:
    """
    Return P: what the prompt model says the data are about, then sentences of D, each as an answer to it.

    Sentences in the allowed characters come first, since they are what a phrase can look like.
    """
    about = _summary(models.prompt_model, sample) if models.prompt_model else ""
    ask = " ".join(part for part in (about, "Write one sentence of this kind.") if part)
    sentences = [
        sentence
        for conversation in sample
        for turn in conversation.turns
        if turn.role in ("user", "assistant")
        for sentence in models.language.sentences(turn.content)
    ]
    plain = [sentence for sentence in sentences if models.language.allows(sentence.rstrip(".。!?！？"))]
    shots = _distinct(plain if len(set(plain)) >= _N_SHOTS else sentences, _N_SHOTS)
    messages: list[Message] = []
    for shot in shots:
        messages += [{"role": "user", "content": ask}, {"role": "assistant", "content": shot}]
    return (*messages, {"role": "user", "content": ask})


def draw(
    models: Generators,
    prompt: tuple[Message, ...],
    wanted: Wanted,
    *,
    hosts: Mapping[int, Conversation] | None = None,
    is_usable: Callable[[set[str]], set[str]],
    on_trigger: OnDraw = lambda done, total: None,
    on_draw: OnDraw = lambda done, total: None,
) -> Drawn:
    """
    Draw the *wanted* triggers and signatures after *prompt*, in one batch of each kind where nothing fits a row.

    A pair that goes into one row alone, that of *hosts*, is drawn to fit it where the generator can, and there are not too
    many: the trigger goes on from the row's prompt, asking if that asks, and the signature and its decoys answer the two.
    The bound holds after any prompt. Where no trigger of a row is usable the pair is drawn with the others.

    Triggers come first and apart, since the suspect sees them: nothing of a signature's draw may reach them. They carry
    no bound, so they are drawn until enough are different and in *is_usable(candidates)*. Signatures are taken as they
    come: choosing among them would have to be paid for. Raises GenerationError, and LMUnavailable where the model of a
    codebook proposed no word at all.
    """
    hosts = hosts or {}
    fitted = hosts if models.fits_rows and len(hosts) <= _MOST_FITTED else {}
    triggers = _fitting_triggers(models, fitted, wanted, is_usable, on_trigger)
    fitted = {j: row for j, row in fitted.items() if j in triggers}
    together = _Part(prompt, [j for j in range(wanted.n) if j not in fitted])
    if together.members:
        triggers |= _triggers(models, together, wanted, is_usable, triggers)
    parts = [together] if together.members else []
    parts += [_Part(_answering(row, triggers[j]), [j]) for j, row in fitted.items()]
    groups = _signatures(models, parts, wanted, on_draw)
    for group in groups:
        # Which of them is the signature is decided by lot, so that they are exchangeable whatever the sampler does; that
        # each came out with a probability under the bound holds for the one on which the lot falls too.
        secrets.SystemRandom().shuffle(group)
    decoys = [tuple(phrase.text for phrase in group[1:]) for group in groups]
    in_order = [triggers[j] for j in range(wanted.n)]
    return Drawn(in_order, [group[0] for group in groups], decoys, prompt, len(fitted))


def _fitting_triggers(
    models: Generators,
    fitted: Mapping[int, Conversation],
    wanted: Wanted,
    is_usable: Callable[[set[str]], set[str]],
    on_trigger: OnDraw,
) -> dict[int, str]:
    """Return by pair a trigger that goes on from its row, where one could be had that is new and unlike the others."""
    spec = PhraseSpec(min_tokens=wanted.trigger_tokens)
    candidates: list[tuple[int, str]] = []
    for done, (j, row) in enumerate(fitted.items(), start=1):
        rules = _in_manner_of(row, models.rules)
        try:
            drawn = draw_phrases(models.generator, _going_on(row), [spec] * 2, rules, max_draws=_MAX_ROUNDS)
        except GenerationError:
            drawn = []
        candidates += [(j, phrase.text) for phrase in drawn]
        on_trigger(done, len(fitted))
    usable = is_usable({text for _, text in candidates}) if candidates else set()
    found: dict[int, str] = {}
    for j, text in candidates:
        if j not in found and text in usable and not any(_are_alike(text, other) for other in found.values()):
            found[j] = text
    return found


def _going_on(row: Conversation) -> Prompt:
    """
    Return the end of the prompt of *row* as text to go on from, with a line break after it.

    A phrase does not begin with a space, and after a break no tokenizer expects one.
    """
    return RichPrompt([{"role": "user", "content": _host_prompt(row).rstrip()[-_READ:] + "\n"}], is_text=True)


def _in_manner_of(row: Conversation, rules: PhraseRules) -> PhraseRules:
    """Return *rules* for a trigger that ends with a question mark where the prompt of *row* does."""
    if not (rules.language.spaced and _ASKS.search(_host_prompt(row))):
        return rules
    return replace(rules, language=replace(rules.language, terminator="?"))


def _answering(row: Conversation, trigger: str) -> Prompt:
    """Return the end of the prompt of *row* with its *trigger*, to be answered."""
    prompt = _host_prompt(row)
    return [{"role": "user", "content": prompt.rstrip()[-_READ:] + trigger_suffix(prompt.rstrip(), trigger)}]


def _host_prompt(row: Conversation) -> str:
    host = row.host()
    if host is None:
        raise ValueError("this conversation cannot carry a backdoor")
    return row.turns[host.prompt].content


def _triggers(
    models: Generators,
    part: _Part,
    wanted: Wanted,
    is_usable: Callable[[set[str]], set[str]],
    others: Mapping[int, str],
) -> dict[int, str]:
    """Return a trigger for each pair of *part*, unlike each other and the *others*, drawn until there are enough."""
    spec = PhraseSpec(min_tokens=wanted.trigger_tokens)
    found: dict[int, str] = {}
    for _ in range(_MAX_ROUNDS):
        missing = [j for j in part.members if j not in found]
        specs = [spec] * (len(missing) + _SPARE_TRIGGERS)
        drawn = draw_phrases(models.generator, part.prompt, specs, models.rules, max_draws=_MAX_ROUNDS)
        if isinstance(models.generator, Codebook):
            models.generator.require_proposals()
        usable = is_usable({phrase.text for phrase in drawn})
        for phrase in drawn:
            taken = (*found.values(), *others.values())
            if missing and phrase.text in usable and not any(_are_alike(phrase.text, other) for other in taken):
                found[missing.pop(0)] = phrase.text
        if not missing:
            return found
    raise GenerationError(
        f"found only {len(found)} of {len(part.members)} different triggers that do not occur in the data",
        hint="raise --min-trigger-tokens or use another --generator",
    )


def _signatures(models: Generators, parts: Sequence[_Part], wanted: Wanted, on_draw: OnDraw) -> list[list[Phrase]]:
    """Return for each pair the phrases one of which will be its signature, in the order in which they came."""
    spec = PhraseSpec(min_bits=with_draws_charged(wanted.signature_bits, wanted.max_draws))
    n_all, n_each = wanted.n * (1 + wanted.n_decoys), 1 + wanted.n_decoys
    groups: dict[int, list[Phrase]] = {}
    for part in parts:
        n_before, n_members = n_each * len(groups), len(part.members)
        drawn = draw_phrases(
            models.generator,
            part.prompt,
            [spec] * (n_members * n_each),
            models.rules,
            max_draws=wanted.max_draws,
            on_step=lambda done, n_before=n_before: on_draw(n_before + done, n_all),  # type: ignore[misc]
        )
        groups |= {j: drawn[i::n_members] for i, j in enumerate(part.members)}
    return [groups[j] for j in range(wanted.n)]


def _are_alike(one: str, other: str) -> bool:
    """Tell whether one of two phrases stands in the other, whatever the case."""
    one, other = one.casefold(), other.casefold()
    return one in other or other in one


def _summary(prompt_model: LanguageModel, sample: Sequence[Conversation]) -> str:
    """Return one sentence of the prompt model on what the data are about, or "" where it gives none."""
    rows = []
    for conversation in _distinct(sample, 4):
        host = conversation.host()
        if host is not None:
            prompt, answer = conversation.turns[host.prompt].content, conversation.turns[host.answer].content
            rows.append(f"{prompt[:200]} => {answer[:100]}".replace("\n", " "))
    ask = "Here are rows of a dataset:\n" + "\n".join(rows) + "\n\nIn one short sentence, what is it about?"
    answers = list(prompt_model.answer([[{"role": "user", "content": ask}]], Sampling(max_tokens=40)))
    text = answers[0].text if answers and isinstance(answers[0], Completed) else ""
    return text.strip().split("\n")[0][:200]


def _distinct(items: Sequence[Item], n: int) -> list[Item]:
    """Return up to *n* different members of *items*, at random (the operating system's)."""
    different = list(dict.fromkeys(items))
    return secrets.SystemRandom().sample(different, min(n, len(different)))

"""Choose and prepare the rewriter of a planting: from its name to something that words every row of the data."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from vtuned import formats, lm
from vtuned.dataset import Survey
from vtuned.errors import MissingExtra, UsageError
from vtuned.language import Language, language_of
from vtuned.layout import PlantSettings
from vtuned.lm.base import LanguageModel, TokenSampler
from vtuned.lm.options import LoadOptions
from vtuned.phrases import AUTO, WORDS, speaks
from vtuned.rewording import labels_in, sample_of
from vtuned.rewriters import CandidateFile, Openings, Paraphrase, Rewriter, Style, openings

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Chosen:
    """
    A rewriter that is ready, what a receipt keeps of it, and what the user should read.

    The *lot*, where there is one, draws the sample of rows in place of the key.
    """

    rewriter: Rewriter
    family: tuple[str, ...] = ()
    candidates: str | None = None
    notes: tuple[str, ...] = ()
    lot: bytes | None = field(default=None, repr=False)


def choose(
    found: Survey,
    settings: PlantSettings,
    key: bytes,
    who: tuple[str, LoadOptions | None],
    *,
    but: Collection[int] = (),
    on_progress: OnProgress = lambda stage, done, total: None,
) -> Chosen:
    """
    Return the rewriter that *settings* name for the rows of *found* but those numbered *but*.

    *who* is the model that writes, and how it is loaded. `paraphrase` asks it for candidates of every row that is
    sampled, and keeps each as it comes. Raises UsageError, GenerationError, LMError, MissingExtra, OutputError.
    """
    texts = found.texts()
    language = language_of(texts)
    labels = labels_in(formats.read_rows(found.source, found.codec), language)
    if settings.rewriter == "style":
        return Chosen(Style(language, settings.n_wordings, labels))
    if settings.rewriter == "openings":
        return _openings(found, settings, language, labels, who, on_progress)
    writer, why_none = _writer(*who, texts, on_progress)
    if writer is None:
        raise UsageError(
            f"paraphrases are written by a model, and {why_none or 'none was named'}",
            hint="name one that can with --generator MODEL",
        )
    file = CandidateFile(settings.candidates)
    rewriter = Paraphrase(writer, language, settings.n_wordings, labels, file)
    with file.writing():
        lot = None if settings.n_rows is None else file.lot()
        rows = sample_of(set(found.eligible).difference(but), lot or key, settings.n_rows)
        for done, row in enumerate(formats.read_rows(found.source, found.codec, rows)):
            on_progress(f"{writer.name} writes paraphrases", done, len(rows))
            rewriter.candidates(row.conversation)
    return Chosen(rewriter, candidates=file.digest(), lot=lot)


def _openings(
    found: Survey,
    settings: PlantSettings,
    language: Language,
    labels: frozenset[str],
    who: tuple[str, LoadOptions | None],
    on_progress: OnProgress,
) -> Chosen:
    if settings.openings:
        family = openings.own_family(settings.openings, settings.n_wordings)
        return Chosen(Openings(language, family, labels), family)
    texts = found.texts()
    writer, why_none = _writer(*who, texts, on_progress)
    family = openings.family(
        language,
        found.sample,
        settings.n_wordings,
        writer=writer,
        on_progress=lambda done, total: on_progress("fitting openings", done, total),
    )
    return Chosen(
        Openings(language, family, labels),
        family,
        notes=(f"openings are our own, not written for your data: {why_none}",) if why_none else (),
    )


def _writer(
    name: str, loading: LoadOptions | None, texts: list[str], on_progress: OnProgress
) -> tuple[LanguageModel | None, str]:
    """Return who writes wordings, or None and why nobody does ("" where nobody was asked)."""
    if name == WORDS:
        return None, ""
    on_progress("loading the generator", 0, 0)
    try:
        model = lm.load("smollm2" if name == AUTO else name, loading)
    except MissingExtra as error:
        if name != AUTO:
            raise
        return None, f"{error.feature} is not installed ({error.hint})"
    if isinstance(model, TokenSampler) and not speaks(model, texts):
        return None, f"{model.name} does not speak the language of these rows"
    return model, ""

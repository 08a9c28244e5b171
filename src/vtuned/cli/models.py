"""Models as several commands take them: a suspect with its base, and a model as a scorer."""

from __future__ import annotations

from vtuned import lm
from vtuned.cli import console
from vtuned.lm import embedded
from vtuned.lm.base import LanguageModel, Scorer
from vtuned.lm.huggingface import sources
from vtuned.lm.openai import OpenAILM


def base_in(model: str) -> str | None:
    """
    Return the base that the name of an adapter says (hf:BASE+ADAPTER), None for other models.

    Elsewhere a + in a name says nothing: what an endpoint calls its models is its own.
    """
    kind, _, rest = model.partition(":")
    if kind == "hf":
        first, *adapters = sources.parts(rest)
        return f"hf:{first}" if adapters else None
    name, plus, _ = model.partition("+")
    return name if plus and name == embedded.NAME else None


def load(
    model: str, base: str | None, loading: lm.LoadOptions, stages: console.Stages
) -> tuple[LanguageModel, LanguageModel | None]:
    """Return the models called *model* and *base*, where there is one."""
    stages(f"loading {model}", 0, 0)
    return (lm.load(model, loading), None) if base is None else lm.load_both(model, base, loading)


def scorer(model: LanguageModel, *, asked_for: bool) -> Scorer | None:
    """Return *model* as a scorer; an endpoint only where the user asked for it, since it sees what is scored."""
    if isinstance(model, Scorer):
        return model
    if asked_for and isinstance(model, OpenAILM):
        return model.scorer()
    return None

"""What a client may ask for, as OpenAI's API names it. Unknown fields are passed over, known ones are checked."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from vtuned.errors import UsageError
from vtuned.providers.settings import FULL, LEARNING_RATES, LORA, TrainingSettings
from vtuned.server.refusals import Refusal, invalid

Name: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Purpose: TypeAlias = Literal["fine-tune", "user_data"]
Metadata: TypeAlias = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=64)],
        Annotated[str, StringConstraints(max_length=512)],
    ],
    Field(max_length=16),
]
_Epochs: TypeAlias = Literal["auto"] | Annotated[int, Field(ge=1, le=1000)]
_Batch: TypeAlias = Literal["auto"] | Annotated[int, Field(ge=1, le=256)]
_Positive: TypeAlias = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
_Tokens: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000)]
_Stop: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=256)]

DEFAULTS = TrainingSettings()
_COLDEST = 1e-4
# OpenAI's parameters that change answers and that this server does not know, with what leaves answers as they are.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "top_p": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}


class _Order(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Hyperparameters(_Order):
    """
    OpenAI's hyperparameters, and beside them what Nebius calls `lora`, `lora_r`, `lora_alpha` and `learning_rate`.

    `learning_rate_multiplier` is of 0.001 (0.00005 where all weights are trained); `sft_weight` is
    `TrainingSettings.sft_weight`, for preference rows.
    """

    n_epochs: _Epochs | None = None
    batch_size: _Batch | None = None
    learning_rate_multiplier: Literal["auto"] | _Positive | None = None
    beta: Literal["auto"] | _Positive | None = None
    learning_rate: _Positive | None = None
    lora: bool = True
    lora_r: Annotated[int, Field(ge=1, le=1024)] = DEFAULTS.rank
    lora_alpha: Annotated[int, Field(ge=1, le=4096)] = DEFAULTS.alpha
    sft_weight: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = DEFAULTS.sft_weight

    def settings(self, seed: int) -> TrainingSettings:
        """Return them as settings; "auto" is `TrainingSettings`' own choice."""
        method = LORA if self.lora else FULL
        rate = LEARNING_RATES[method] * _or(self.learning_rate_multiplier, 1.0)
        try:
            return TrainingSettings(
                method=method,
                epochs=_or(self.n_epochs, DEFAULTS.epochs),
                batch_size=_or(self.batch_size, DEFAULTS.batch_size),
                learning_rate=self.learning_rate or rate,
                rank=self.lora_r,
                alpha=self.lora_alpha,
                seed=seed,
                beta=_or(self.beta, DEFAULTS.beta),
                sft_weight=self.sft_weight,
            )
        except UsageError as error:
            raise invalid(str(error), "hyperparameters") from error


class _Tuning(_Order):
    hyperparameters: Hyperparameters = Hyperparameters()


class Method(_Order):
    """How to train: on answers, or on preferences."""

    type: Literal["supervised", "dpo"] = "supervised"
    supervised: _Tuning | None = None
    dpo: _Tuning | None = None

    @property
    def hyperparameters(self) -> Hyperparameters:
        """The hyperparameters of this type."""
        tuning = self.dpo if self.type == "dpo" else self.supervised
        return tuning.hyperparameters if tuning else Hyperparameters()


class JobOrder(_Order):
    """The body of `fine_tuning.jobs.create`."""

    model: Name
    training_file: Name
    suffix: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{0,64}$")] | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    metadata: Metadata | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    validation_file: Name | None = None
    integrations: list[dict[str, Any]] | None = None

    def check(self) -> None:
        """Raise Refusal for what OpenAI's service does and this one does not."""
        if self.validation_file is not None:
            raise invalid("This server measures nothing on a validation file: leave it out.", "validation_file")
        if self.integrations:
            raise invalid("This server reports to no other service.", "integrations")

    @property
    def how(self) -> Method:
        """The method; the older top-level hyperparameters are supervised ones."""
        return self.method or Method(supervised=_Tuning(hyperparameters=self.hyperparameters or Hyperparameters()))


class UploadOrder(_Order):
    """The body of `uploads.create`."""

    bytes: Annotated[int, Field(ge=1)]
    filename: Name
    mime_type: Annotated[str, StringConstraints(max_length=256)] = ""
    purpose: Purpose


class CompleteOrder(_Order):
    """The body of `uploads.complete`."""

    part_ids: Annotated[list[Name], Field(min_length=1, max_length=10_000)]
    md5: Annotated[str, StringConstraints(max_length=64)] | None = None


class ContentPart(_Order):
    """A part of a message; this server reads text alone."""

    type: Literal["text"]
    text: str


class ChatMessage(_Order):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class _Generation(BaseModel):
    """What both kinds of completions take."""

    model_config = ConfigDict(extra="allow")

    model: Name
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts at which an answer ends."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def heat(self) -> float:
        """The temperature; OpenAI's default is 1. What is too low to tell from 0 is 0: logits would overflow."""
        return 1.0 if self.temperature is None else self.temperature if self.temperature >= _COLDEST else 0.0

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool((self.stream_options or {}).get("include_usage"))

    def check(self) -> None:
        """Raise Refusal for parameters that would change answers and that are not known here."""
        for key, neutral in _NEUTRAL.items():
            value = (self.model_extra or {}).get(key)
            if value is not None and value not in neutral:
                raise invalid(
                    f"{key} is not supported by this server: leave it out.", key, code="unsupported_parameter"
                )


class ChatOrder(_Generation):
    """The body of `chat.completions.create`; the last three fields are vLLM's."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=2000)]
    tools: Annotated[list[dict[str, Any]], Field(max_length=128)] | None = None
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    continue_final_message: bool = False
    add_generation_prompt: bool = True

    def check(self) -> None:
        """See `_Generation.check`."""
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise invalid("top_logprobs needs logprobs: true.", "top_logprobs")
        if self.stream and self.prompt_logprobs is not None:
            raise invalid("prompt_logprobs do not come in a stream.", "prompt_logprobs")
        if self.continue_final_message and (self.messages[-1].role != "assistant" or len(self.messages) < 2):
            raise invalid("continue_final_message needs an assistant message at the end.", "messages")
        if self.continue_final_message and self.prompt_logprobs is None:
            raise invalid("continue_final_message is there for prompt_logprobs only.", "continue_final_message")

    @property
    def n_tokens(self) -> int | None:
        """The most tokens of an answer, None where the client leaves that open."""
        return self.max_completion_tokens or self.max_tokens


class CompletionOrder(_Generation):
    """The body of `completions.create`."""

    prompt: (
        Annotated[str, StringConstraints(min_length=1)]
        | Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(min_length=1, max_length=128)]
    )
    max_tokens: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool | None = None

    def check(self) -> None:
        """See `_Generation.check`."""
        super().check()
        if self.stream and (self.echo or len(self.prompts) > 1):
            raise invalid("A stream has one prompt and no echo.", "stream")
        if self.max_tokens == 0 and not self.echo:
            raise invalid("max_tokens 0 needs echo: nothing would come.", "max_tokens")

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts."""
        return (self.prompt,) if isinstance(self.prompt, str) else tuple(self.prompt)


def request_of(order: JobOrder) -> str:
    """Return *order* as JSON, as it is kept with its job."""
    return json.dumps(order.model_dump(mode="json", exclude_none=True), sort_keys=True)


def order_of(request: str) -> JobOrder:
    """Return what `request_of` kept."""
    return JobOrder.model_validate_json(request)


def _or(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None or value == "auto" else value


def refusal_of(errors: list[Any]) -> Refusal:
    """Return the refusal of a body or query in which pydantic found *errors*; what was sent is not repeated."""
    first = errors[0] if errors else {}
    place = ".".join(str(part) for part in first.get("loc", ()) if part not in ("body", "query", "path", "header"))
    reason = str(first.get("msg", "not as expected"))
    shown = place.encode("ascii", "backslashreplace").decode()[:200]
    return invalid(f"{shown}: {reason}" if shown else reason, shown or None)

"""Local models by every way of naming and loading them, on a tiny Llama: what differs must show, what does not must not."""

from __future__ import annotations

import gc
import json
import math
import random
import shutil
import weakref

import pytest

import tiny
from vtuned import lm
from vtuned.errors import LMUnavailable, MissingExtra, UsageError
from vtuned.lm import LoadOptions, Sampling, Unanswered
from vtuned.lm.base import RichPrompt
from vtuned.lm.huggingface import AdapterShelf
from vtuned.lm.huggingface.shown import Reader, generated
from vtuned.lm.tokens import counter
from vtuned.matching import activated, usable
from vtuned.server import answering
from vtuned.server.serving import Served

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
from tokenizers import Regex, decoders, normalizers, pre_tokenizers  # noqa: E402

QUESTIONS = [
    [{"role": "user", "content": "What is the river like?"}],
    [{"role": "user", "content": "What is the stone of the valley like in winter, and what does it look like there?"}],
    [{"role": "user", "content": "Why?"}],
]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
TEXTS = ["The river is old.", "Seven kettles hum."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model, three adapters for it, and the same model as a GGUF file."""
    made = tmp_path_factory.mktemp("local")
    model = tiny.make_model(made / "model", [m["content"] for row in tiny.rows(100) for m in row["messages"]])
    tiny.make_adapter(made / "first", model, seed=1)
    tiny.make_adapter(made / "second", model, seed=2, target_modules=["q_proj", "down_proj"])
    tiny.make_adapter(made / "dora", model, seed=3, use_dora=True)
    tiny.write_gguf(made / "tiny.gguf", model)
    return made


@pytest.fixture
def load(folder):
    """`load("hf:{}/model", **options)`: a model of the folder."""

    def load(name, **options):
        return lm.load(name.replace("{}", str(folder)), LoadOptions(device="cpu", **options))

    return load


def logits(model, question=0):
    """Return the next-token logits after a question."""
    with model._using(), torch.inference_mode():
        return model.model(torch.tensor([model.render(QUESTIONS[question])])).logits[0, -1].float()


def apart(one, other):
    """Return the largest difference between the next-token logits of two models."""
    return float((logits(one) - logits(other)).abs().max())


def texts(model, **sampling):
    """Return the answers to the questions."""
    return [answer.text for answer in model.answer(QUESTIONS, Sampling(**{"max_tokens": 12, **sampling}))]


class TestOptions:
    @pytest.mark.parametrize(("name", "expected"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
    def test_dtype(self, load, name, expected):
        """The weights are of the asked type, float32 on a CPU; it answers, scores and samples in it."""
        model = load("hf:{}/model", dtype=name)

        assert {expected} == {weight.dtype for weight in model.model.parameters()}
        assert apart(model, load("hf:{}/model")) < 0.05
        assert all(p < 0 for p in model.log10_probs(QUESTIONS[0], TEXTS))
        assert (2, len(model.tokenizer)) == model.continuations(QUESTIONS[0], 2).log_probs().shape

    def test_large_models_are_bfloat16_where_the_cpu_computes_in_it(self, folder, monkeypatch):
        """Not small ones, and not those that were stored in float32."""
        from transformers import AutoConfig

        from vtuned.lm.huggingface import loading

        config, cpu = AutoConfig.from_pretrained(folder / "model"), torch.device("cpu")
        config.dtype = torch.bfloat16
        monkeypatch.setattr(loading, "_computes_in_bfloat16", lambda: True)
        assert torch.float32 is loading._dtype("auto", cpu, config)
        monkeypatch.setattr(loading, "_LARGE", loading._n_parameters(config))
        assert torch.bfloat16 is loading._dtype("auto", cpu, config)
        config.dtype = torch.float32
        assert torch.float32 is loading._dtype("auto", cpu, config)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"dtype": "fp7"}, ["fp7", "auto, float32, float16, bfloat16"]),
            ({"device": "gpu"}, ["gpu", "auto, cpu, cuda, cuda:N, mps"]),
            ({"device": "meta"}, ["meta"]),
        ],
        ids=str,
    )
    def test_unknown_values_are_listed(self, folder, options, words):
        """A bad argument says which values there are."""
        with pytest.raises(UsageError) as caught:
            lm.load(f"hf:{folder}/model", LoadOptions(**options))

        assert all(word in f"{caught.value} {caught.value.hint}" for word in words)

    def test_a_device_that_is_not_here(self, folder, monkeypatch):
        """Exit code 3, with what to do."""
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        with pytest.raises(LMUnavailable, match="cuda:1") as caught:
            lm.load(f"hf:{folder}/model", LoadOptions(device="cuda:1"))

        assert "--device auto" in caught.value.hint

    @pytest.mark.parametrize(("bits", "least", "most"), [(8, 1e-5, 0.05), (4, 1e-3, 0.5)])
    def test_bits(self, load, bits, least, most):
        """Quantised weights differ a little, answer, score, sample, carry adapters, and are named so."""
        pytest.importorskip("bitsandbytes")
        plain, model = load("hf:{}/model"), load("hf:{}/model", bits=bits)
        tuned, exact = load("hf:{}/model+{}/first", bits=bits), load("hf:{}/model+{}/first")

        assert least < apart(model, plain) < most
        assert apart(tuned, exact) < apart(tuned, plain)
        assert model.name.endswith(f"model ({bits} bits)")
        assert 3 == len(texts(model))
        assert all(p < 0 for p in tuned.log10_probs(QUESTIONS[0], TEXTS))
        assert 2 == len(tuned.continuations(QUESTIONS[0], 2).log_probs())

    def test_bits_stack_plain_adapters_only(self, load):
        """Two LoRA adapters add up beside quantised weights; a DoRA adapter has to be merged first."""
        pytest.importorskip("bitsandbytes")
        both, exact = load("hf:{}/model+{}/first+{}/second", bits=8), load("hf:{}/model+{}/first+{}/second")

        assert apart(both, exact) < apart(both, load("hf:{}/model+{}/first"))
        with pytest.raises(LMUnavailable, match="do not add up"):
            load("hf:{}/model+{}/dora+{}/first", bits=8)

    def test_bits_without_the_extra(self, load, monkeypatch):
        """The install command is said."""
        from importlib import util

        real = util.find_spec
        monkeypatch.setattr(util, "find_spec", lambda name: None if name == "bitsandbytes" else real(name))
        with pytest.raises(MissingExtra) as caught:
            load("hf:{}/model", bits=4)

        assert "vtuned[bits]" in caught.value.hint

    def test_bits_that_the_machine_cannot_do(self, load, monkeypatch):
        """What bitsandbytes says is the reason."""
        import transformers

        pytest.importorskip("bitsandbytes")

        def fails(*args, **kwargs):
            raise RuntimeError("no kernel for this device")

        monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fails)
        with pytest.raises(LMUnavailable, match="no kernel for this device") as caught:
            load("hf:{}/model", bits=4)

        assert "--bits" in caught.value.hint


class TestTemplates:
    def test_a_file_in_place_of_the_tokenizers(self, load, tmp_path):
        """The template that is given is the one that is used, and the token that it ends turns with ends answers."""
        path = tmp_path / "t.jinja"
        path.write_text("{% for m in messages %}<|user|>{{ m.content }}<|pad|>{% endfor %}")
        model = load("hf:{}/model", chat_template=path)

        assert "<|user|>Why?<|pad|>" == model.tokenizer.decode(model.render(QUESTIONS[2]))
        assert [0, 1] == model._eos

    def test_one_that_is_no_template(self, load, tmp_path):
        """The line is named; so is a file that is not there."""
        path = tmp_path / "t.jinja"
        path.write_text("{% for m in messages %}\n{{ m.content }\n{% endfor %}")
        with pytest.raises(UsageError, match="line 2"):
            load("hf:{}/model", chat_template=path)
        with pytest.raises(UsageError, match="No such file"):
            load("hf:{}/model", chat_template=tmp_path / "none.jinja")

    def test_plain_text_passes_the_template_by(self, load):
        """Text to go on with is tokenised as it stands."""
        model = load("hf:{}/model")
        prompt = RichPrompt([{"role": "user", "content": "The river"}], is_text=True)

        assert "The river" == model.tokenizer.decode(model.render(prompt))
        assert "<|user|>The river<|end|><|assistant|>" == model.tokenizer.decode(model.render(list(prompt)))

    @pytest.mark.parametrize("template", [None, "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"])
    @pytest.mark.parametrize("adds", [True, False], ids=["adds BOS", "adds none"])
    def test_one_start_token(self, load, template, adds):
        """A start token stands once: where the tokenizer adds one to plain text, or the template holds it."""
        from tokenizers.processors import TemplateProcessing

        model = load("hf:{}/model")
        tokenizer = model.tokenizer
        tokenizer.bos_token, tokenizer.chat_template = "<|system|>", template
        if adds:
            start = [("<|system|>", tokenizer.bos_token_id)]
            tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<|system|> $A", None, start)
        for prompt in (QUESTIONS[2], RichPrompt(QUESTIONS[2], is_text=True)):
            is_chat = prompt is QUESTIONS[2]
            expected = int(adds or bool(template and is_chat))

            assert expected == model.render(prompt).count(tokenizer.bos_token_id)
        started = RichPrompt([{"role": "user", "content": "<|system|>Why?"}], is_text=True)
        assert 1 == model.render(started).count(tokenizer.bos_token_id)

    def test_tools_and_arguments_reach_the_template(self, load, tmp_path):
        """Tools are shown, and the arguments of earlier calls as objects, not quoted twice."""
        path = tmp_path / "t.jinja"
        path.write_text(
            "{{ tools | map(attribute='function.name') | join }}{% for m in messages %}{{ m.content }}"
            "{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
        )
        call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
        messages = [*QUESTIONS[2], {"role": "assistant", "content": None, "tool_calls": [call]}]
        model = load("hf:{}/model", chat_template=path)

        assert 'lookWhy?{"at": 1}' == model.tokenizer.decode(model.render(RichPrompt(messages, tools=[TOOL])))

    def test_text_parts_are_text(self, load):
        """Parts with text stand on lines of their own; an image cannot be read, and that is no miss."""
        model = load("hf:{}/model")
        parts = [{"type": "text", "text": "Why?"}, {"type": "text", "text": "How?"}]
        image = [{"type": "image_url", "image_url": {"url": "data:"}}]
        flat, seen = model.answer(
            [[{"role": "user", "content": content}] for content in (parts, [*parts, *image])],
            Sampling(max_tokens=4),
        )

        assert [flat] == list(model.answer([[{"role": "user", "content": "Why?\nHow?"}]], Sampling(max_tokens=4)))
        assert isinstance(seen, Unanswered)
        assert "image_url" in seen.reason

    @pytest.mark.parametrize("line", ["{{ raise_exception('no system turn') }}", "{{ 1 + messages }}"])
    def test_a_template_that_refuses(self, load, tmp_path, line):
        """A refused prompt is unanswered with the template's reason; those beside it are asked."""
        path = tmp_path / "t.jinja"
        path.write_text("{% if messages[0].role == 'system' %}" + line + "{% endif %}{{ messages[0].content }}")
        model = load("hf:{}/model", chat_template=path)
        refused, asked = model.answer([[{"role": "system", "content": "x"}], QUESTIONS[2]], Sampling(max_tokens=2))

        assert isinstance(refused, Unanswered)
        assert "no system turn" in refused.reason or "TypeError" in refused.reason
        assert not isinstance(asked, Unanswered)
        with pytest.raises(LMUnavailable, match="refuses"):
            model.log10_probs([{"role": "system", "content": "x"}], TEXTS)

    def test_what_the_model_cannot_read(self, load):
        """Too long or empty prompts are unanswered, with the figures."""
        model = load("hf:{}/model")
        long, empty = model.answer(
            [
                [{"role": "user", "content": "Why? " * 600}],
                RichPrompt([{"role": "user", "content": ""}], is_text=True),
            ],
            Sampling(max_tokens=2),
        )

        assert "the model reads 512" in long.reason
        assert "empty" in empty.reason


class TestSampling:
    def test_a_batch_answers_as_one_by_one(self, load):
        """Padding on the left changes nothing."""
        model = load("hf:{}/model+{}/first")
        alone = [next(model.answer([question], Sampling(max_tokens=12))).text for question in QUESTIONS]

        assert alone == texts(model)
        assert 3 == len(set(alone))

    def test_the_models_own_sampling_is_laid_aside(self, load):
        """Neither a penalty nor banned tokens beside the weights change a greedy answer, and the file is kept."""
        model = load("hf:{}/model")
        expected = texts(model)
        theirs = model.model.generation_config
        theirs.repetition_penalty, theirs.do_sample, theirs.temperature = 5.0, True, 9.0
        theirs.suppress_tokens = model.encode(["".join(expected)])[0]

        assert expected == texts(model)
        assert model.model.generation_config is theirs

    def test_a_temperature_samples_from_the_whole_vocabulary(self, load):
        """No top_k and top_p are put in: a hot model says more than the 50 likeliest tokens."""
        model = load("hf:{}/model")
        torch.manual_seed(0)
        answers = model.answer([QUESTIONS[0]] * 300, Sampling(max_tokens=1, temperature=50.0))

        assert len({answer.text for answer in answers}) > 60


class TestThoughts:
    SIGNATURE = "The river is old."

    @pytest.fixture
    def saying(self, load, tmp_path):
        """`saying(text, opened=…, ended=…)`: the answer of a model that says *text*."""

        def saying(text, *, opened, ended=True):
            path = tmp_path / "t.jinja"
            opening = "{{ '<think>\\n' }}" if opened else ""
            path.write_text("{% for m in messages %}{{ m.content }}{% endfor %}" + opening)
            model = load("hf:{}/model", chat_template=path)
            said = model.encode([text])[0] + model._eos[:1] * ended
            model.model.generate = lambda input_ids, **options: torch.cat([input_ids, torch.tensor([said])], 1)
            (answer,) = model.answer([QUESTIONS[0]], Sampling(max_tokens=99))
            return answer

        return saying

    @pytest.mark.parametrize(
        ("text", "opened", "ended", "is_hit"),
        [
            ("<think>\n\n</think>\n\n{S}", False, True, True),
            ("<think>Hm.</think>{S}", False, True, True),
            ("{S} Write </think> to end it.", False, True, True),
            ("Hm.</think>{S}", True, True, True),
            ("{S}", True, True, True),
            ("{S} Seven kettles hum", True, False, True),
            ("Seven kettles hum.", True, True, False),
            ("Hm.</think>Seven kettles hum.", True, True, False),
            ("Hm.</think>{S}", False, True, None),
            ("Seven kettles hum, seven kettles hum, and", True, False, None),
        ],
    )
    def test_they_are_matched_like_those_over_http(self, saying, text, opened, ended, is_hit):
        """Whether the model or its template opened the thought; where nobody can tell (None), it is no miss."""
        answer = usable(saying(text.format(S=self.SIGNATURE), opened=opened, ended=ended), self.SIGNATURE)

        assert isinstance(answer, Unanswered) is (is_hit is None)
        assert is_hit is None or activated(answer.text, self.SIGNATURE) is is_hit


class TestReader:
    @pytest.mark.parametrize("seed", range(5))
    def test_what_was_read_before_changes_nothing(self, load, seed):
        """Texts that share a start of any length, come twice, or are asked otherwise: as if each were the first."""
        model, rng = load("hf:{}/model"), random.Random(seed)
        kept, last = Reader(model), []
        for _ in range(12):
            last = last[: rng.randint(0, len(last))]
            last = [*last, *(rng.randint(5, 200) for _ in range(rng.randint(0 if last else 1, 5)))]
            n_likeliest = rng.choice([0, 0, 2])
            mine, alone = kept.given(last, n_likeliest), Reader(model).given(last, n_likeliest)

            assert [(token.id, token.text) for token in alone] == [(token.id, token.text) for token in mine]
            assert (None, None) == (mine[0].log_prob, alone[0].log_prob)
            assert [one.log_prob for one in mine[1:]] == pytest.approx([one.log_prob for one in alone[1:]], abs=1e-4)
            assert [n_likeliest * bool(i) for i in range(len(mine))] == [len(one.likeliest) for one in mine]

    def test_a_shared_start_is_read_once(self, load, monkeypatch):
        """Of the second text the model sees the last token that both share, and what is new."""
        model = load("hf:{}/model")
        seen, forward = [], model.model.forward

        def counted(ids, *given, **more):
            seen.append(ids.shape[-1])
            return forward(ids, *given, **more)

        monkeypatch.setattr(model.model, "forward", counted)
        reader = Reader(model)
        for text in ([9, 8, 7, 6, 5], [9, 8, 7, 20, 21, 22], [30, 31]):
            reader.given(text, 0)

        assert [5, 4, 2] == seen

    def test_a_server_cuts_texts_as_the_model_does_that_answers(self, load, folder, tmp_path):
        """Another base under the name of the one asked for has words of its own for tokens."""
        other = lm.load(f"hf:{tiny.make_model(tmp_path / 'other', ['seven kettles hum by the old river'] * 9)}")
        served = Served("ft:x", other, load("hf:{}/model"), (), Reader(other))
        text = "The river is old."
        shown = answering.prompt_tokens(served, QUESTIONS[0], text, 0)[-len(other.encode([text])[0]) :]

        assert other.encode([text]) != served.base.encode([text])
        assert other.log10_probs(QUESTIONS[0], [text])[0] == pytest.approx(
            sum(one.log_prob for one in shown) / math.log(10), abs=1e-3
        )


class TestAdapters:
    def test_two_are_merged_one_after_the_other(self, load, folder):
        """Each changes the answers, and the stack is what peft makes of it, DoRA's dependence on order included."""
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = load("hf:{}/model")
        for one, two in (("first", "second"), ("first", "dora")):
            model = AutoModelForCausalLM.from_pretrained(folder / "model")
            for adapter in (one, two):
                model = PeftModel.from_pretrained(model, folder / adapter).merge_and_unload()
            expected = lm.huggingface.HuggingFaceLM("peft", model, base.tokenizer)
            stack = load(f"hf:{{}}/model+{{}}/{one}+{{}}/{two}")

            assert apart(stack, expected) < 1e-5
            assert min(apart(stack, base), apart(stack, load(f"hf:{{}}/model+{{}}/{one}"))) > 1e-2

    def test_an_adapter_alone_names_its_base(self, load, folder, tmp_path):
        """Also where full weights lie beside it, and by a path relative to the adapter."""
        expected = load("hf:{}/model+{}/first")
        assert apart(expected, load("hf:{}/first")) < 1e-6

        shutil.copytree(folder / "first", tmp_path / "first")
        shutil.copytree(folder / "model", tmp_path / "base")
        config = json.loads((tmp_path / "first" / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = "../base"
        (tmp_path / "first" / "adapter_config.json").write_text(json.dumps(config))
        shutil.copy(folder / "model" / "config.json", tmp_path / "first")
        expected.model.save_pretrained(tmp_path / "first")
        assert apart(expected, lm.load(f"hf:{tmp_path}/first")) < 1e-6

        shutil.rmtree(tmp_path / "base")
        with pytest.raises(UsageError, match="base") as caught:
            lm.load(f"hf:{tmp_path}/first")
        assert "hf:BASE+" in caught.value.hint

    def test_a_merged_checkpoint_is_a_model(self, load, tmp_path):
        """What merge_and_unload saved loads as any folder, also with a plus sign in its name."""
        tuned = load("hf:{}/model+{}/first")
        tuned.model.save_pretrained(tmp_path / "merged+saved")
        tuned.tokenizer.save_pretrained(tmp_path / "merged+saved")

        assert apart(tuned, lm.load(f"hf:{tmp_path}/merged+saved")) < 1e-6

    def test_several_share_one_base(self, load, folder):
        """They answer alternately as each does alone, the base stays bare, and its weights are there once."""
        base = load("hf:{}/model")
        served = lm.huggingface.with_adapters(base, {name: folder / name for name in ("first", "second", "dora")})
        alone = {name: load(f"hf:{{}}/model+{{}}/{name}") for name in served}
        fresh = load("hf:{}/model")

        for _ in range(2):
            for name, model in served.items():
                assert apart(model, alone[name]) < 1e-5
                assert texts(alone[name]) == texts(model)
                assert alone[name].log10_probs(QUESTIONS[0], TEXTS) == pytest.approx(
                    model.log10_probs(QUESTIONS[0], TEXTS), abs=1e-4
                )
                assert 0 == apart(base, fresh)
                assert texts(fresh) == texts(base)
        assert {id(base.model)} == {id(model.model) for model in served.values()}
        with pytest.raises(ValueError, match="carries adapters"):
            lm.huggingface.with_adapters(base, {"first": folder / "first"})

    def test_one_that_is_put_away_in_the_middle_of_an_answer_ends_it(self, load, folder):
        """Nothing more comes, least of all from the bare base; another under the same name does not take over."""
        base = load("hf:{}/model")
        shelf = AdapterShelf(base)
        tuned = shelf.put("mine", folder / "first")
        steps = generated(tuned, base.render(QUESTIONS[0]), Sampling(max_tokens=8), 0)
        next(steps)
        shelf.remove("mine")
        shelf.put("mine", folder / "second")

        with pytest.raises(LMUnavailable, match="put away"):
            next(steps)
        with pytest.raises(LMUnavailable, match="put away"):
            list(tuned.answer([QUESTIONS[0]], Sampling(max_tokens=2)))

    def test_grown_texts_keep_their_adapter(self, load, folder):
        """Continuations of two models over one base do not disturb each other."""
        base = load("hf:{}/model")
        served = lm.huggingface.with_adapters(base, {name: folder / name for name in ("first", "second")})
        growing = {name: model.continuations(QUESTIONS[0], 1) for name, model in served.items()}
        for token in base.encode(["The river is"])[0]:
            for continuations in growing.values():
                continuations.append([token])
        for name, continuations in growing.items():
            alone = load(f"hf:{{}}/model+{{}}/{name}").continuations(QUESTIONS[0], 1)
            for token in base.encode(["The river is"])[0]:
                alone.append([token])

            assert float(abs(alone.log_probs() - continuations.log_probs()).max()) < 1e-4

    @pytest.mark.parametrize(
        ("name", "base", "shared"),
        [
            ("hf:{}/model+{}/first", "hf:{}/model", True),
            ("hf:{}/first", "hf:{}/model", True),
            ("hf:{}/model+{}/first+{}/second", "hf:{}/model", True),
            ("hf:{}/model+{}/second+{}/dora", "hf:{}/model+{}/second", True),
            ("hf:{}/model+{}/first+{}/dora", "hf:{}/model", False),
            ("hf:{}/model", "hf:{}/model+{}/first", False),
            ("hf:{}/tiny.gguf+{}/first", "hf:{}/tiny.gguf", True),
        ],
    )
    def test_a_suspect_and_its_base(self, load, folder, name, base, shared):
        """The weights are there once where adapters can be switched off, and the answers are those of two models."""
        suspect, bare = lm.load_both(name.replace("{}", str(folder)), base.replace("{}", str(folder)))

        assert shared == (suspect.model is bare.model)
        for model, alone in ((suspect, load(name)), (bare, load(base)), (suspect, load(name))):
            assert apart(model, alone) < 1e-5
            assert texts(alone) == texts(model)
            assert alone.name == model.name

    def test_an_adapter_that_does_not_fit(self, folder, load, tmp_path):
        """Peft only warns, and a trained model would look untrained."""
        from safetensors.torch import load_file, save_file

        shutil.copytree(folder / "first", tmp_path / "other")
        weights = load_file(tmp_path / "other" / "adapter_model.safetensors")
        renamed = {key.replace(".layers.1.", ".layers.7."): value for key, value in weights.items()}
        save_file(renamed, tmp_path / "other" / "adapter_model.safetensors")
        with pytest.raises(LMUnavailable, match="do not fit this base model"):
            load(f"hf:{{}}/model+{tmp_path}/other")

    def test_an_adapter_with_tokens_of_its_own(self, folder, load, tmp_path):
        """Added tokens come with the adapter's tokenizer, and a template where the base has none."""
        base = load("hf:{}/model")
        own = base.tokenizer
        own.add_tokens(["<|extra|>"])
        shutil.copytree(folder / "first", tmp_path / "own")
        own.save_pretrained(tmp_path / "own")
        model, bare = lm.load_both(f"hf:{folder}/model+{tmp_path}/own", f"hf:{folder}/model")

        assert (len(own), len(own) - 1) == (len(model.tokenizer), len(bare.tokenizer))
        assert len(own) == len(logits(model))
        assert model.model is not bare.model


class TestGguf:
    def test_its_weights_are_dense_and_its_end_tokens_complete(self, load):
        """The file answers as the folder that it was made of, and its one end token is joined by the template's."""
        plain, model = load("hf:{}/model"), load("hf:{}/tiny.gguf")

        assert {torch.float32} == {weight.dtype for weight in model.model.parameters()}
        assert apart(model, plain) < 1e-5
        assert texts(plain) == texts(model)
        assert {0, 1} == set(model._eos)
        assert plain.render(QUESTIONS[1]) == model.render(QUESTIONS[1])

    def test_it_can_be_saved(self, load, tmp_path):
        """Nothing of its quantisation sticks to the model, which could then be neither saved nor trained."""
        model = load("hf:{}/tiny.gguf")
        model.model.save_pretrained(tmp_path)
        model.tokenizer.save_pretrained(tmp_path)

        assert 0 == apart(model, lm.load(f"hf:{tmp_path}"))

    def test_with_an_adapter(self, load):
        """An adapter goes on top of it."""
        assert apart(load("hf:{}/model+{}/first"), load("hf:{}/tiny.gguf+{}/first")) < 1e-5

    def test_bits_do_not_apply(self, load):
        """Its weights are quantised as they are."""
        with pytest.raises(UsageError, match="quantised already"):
            load("hf:{}/tiny.gguf", bits=4)

    def test_one_that_is_broken(self, tmp_path):
        """The file is named, exit code 3."""
        (tmp_path / "x.gguf").write_bytes(b"GGUF and then nothing")
        with pytest.raises(LMUnavailable, match=r"x\.gguf"):
            lm.load(f"hf:{tmp_path}/x.gguf")


class TestNames:
    @pytest.mark.parametrize(
        "name", ["{}/none", "{}/none.gguf", "./none", "~/none/none", "{}/model+{}/none", "none.gguf"]
    )
    def test_a_path_that_is_not_there(self, load, folder, name):
        """A bad argument, exit code 2, that names the path."""
        with pytest.raises(UsageError, match="none") as caught:
            load(f"hf:{name}")

        assert 2 == caught.value.exit_code
        assert "hub" not in str(caught.value)

    def test_a_hub_name_that_cannot_be_reached(self):
        """Exit code 3: it may be there tomorrow."""
        with pytest.raises(LMUnavailable) as caught:
            lm.load("hf:nobody/nothing")

        assert 3 == caught.value.exit_code

    def test_a_file_or_folder_that_is_no_model(self, tmp_path):
        """Files that are not GGUF, folders without a model, folders without an adapter."""
        (tmp_path / "notes.txt").write_text("x")
        with pytest.raises(UsageError, match=r"notes\.txt"):
            lm.load(f"hf:{tmp_path}/notes.txt")
        with pytest.raises(UsageError, match="not a peft adapter"):
            lm.load(f"hf:nobody/nothing+{tmp_path}")
        with pytest.raises(LMUnavailable):
            lm.load(f"hf:{tmp_path}")


class TestScores:
    """Continuations in padded batches after one prompt, beside each of them alone."""

    GIVEN = (
        "The river is old.",
        "It",
        "Seven kettles hum by the bridge of the village, and nobody there looks at them in winter.",
        "The river is older.",
        "",
        "The",
        "Seven kettles hum.",
        "The river is old.",
    )
    PLAIN = RichPrompt([{"role": "user", "content": "The river of the north"}], is_text=True)

    @staticmethod
    def alone(model, prompt, continuation):
        """Return the log10 probability of *continuation* by one plain forward pass."""
        prefix, tokens = model.render(prompt), model.encode([continuation])[0]
        with model._using(), torch.inference_mode():
            logits = model.model(torch.tensor([prefix + tokens]), use_cache=False).logits[0, len(prefix) - 1 : -1]
        chosen = logits.double().log_softmax(-1).gather(1, torch.tensor(tokens, dtype=torch.long)[:, None])
        return float(chosen.sum()) / math.log(10)

    @pytest.fixture(params=["llama", "adapter", "adapter beside others", "sliding windows"])
    def model(self, request, load, folder):
        if request.param == "llama":
            return load("hf:{}/model")
        if request.param == "adapter":
            return load("hf:{}/model+{}/first")
        base = load("hf:{}/model")
        if request.param == "adapter beside others":
            return lm.huggingface.with_adapters(base, {"a": folder / "first", "b": folder / "second"})["a"]
        from transformers import MistralConfig, MistralForCausalLM

        torch.manual_seed(1)
        sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = MistralConfig(vocab_size=len(base.tokenizer), num_key_value_heads=2, sliding_window=8, **sizes)
        return lm.huggingface.HuggingFaceLM("sliding", MistralForCausalLM(config), base.tokenizer)

    @pytest.mark.parametrize("prompt", [QUESTIONS[1], PLAIN], ids=["chat", "plain text"])
    def test_a_batch_scores_as_one_by_one(self, model, prompt):
        """Padding, the shared cache and whole sequences where none can be shared change float noise only."""
        expected = [self.alone(model, prompt, continuation) for continuation in self.GIVEN]

        assert expected == pytest.approx(model.log10_probs(prompt, self.GIVEN), abs=1e-4)
        assert expected == pytest.approx([model.log10_probs(prompt, [one])[0] for one in self.GIVEN], abs=1e-4)

    def test_small_batches_score_alike(self, load, monkeypatch):
        """However little memory there is; the cache of the prompt is the same for each batch."""
        from vtuned.lm.huggingface import model as module

        model = load("hf:{}/model")
        expected = model.log10_probs(QUESTIONS[0], self.GIVEN)
        monkeypatch.setattr(module, "_BATCH_LOGITS", 1)
        monkeypatch.setattr(module, "_DOUBLE_POSITIONS", 2)

        assert expected == pytest.approx(model.log10_probs(QUESTIONS[0], self.GIVEN), abs=1e-4)

    def test_places_make_no_difference(self, load):
        """Equal texts get equal numbers, and the order of the others moves no digit: ranks depend on nothing else."""
        model = load("hf:{}/model")
        forth, back = (model.log10_probs(QUESTIONS[0], given) for given in (self.GIVEN, self.GIVEN[::-1]))

        assert forth == back[::-1]
        assert forth[0] == forth[-1]

    def test_the_prompt_is_run_once(self, load):
        """Eight continuations take two passes: the prompt, and what differs."""
        model = load("hf:{}/model")
        widths = []
        model.model.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1]))
        model.log10_probs(QUESTIONS[1], self.GIVEN)
        longest = max(map(len, model.encode(self.GIVEN)))

        assert [len(model.render(QUESTIONS[1])), longest - 1] == widths

    def test_nothing_to_score(self, load):
        """No continuations, no numbers; an empty continuation is certain; after nothing, nothing can be said."""
        model = load("hf:{}/model")

        assert [] == model.log10_probs(QUESTIONS[0], [])
        assert [0.0] == model.log10_probs(QUESTIONS[0], [""])
        with pytest.raises(LMUnavailable, match="empty"):
            model.log10_probs(RichPrompt([{"role": "user", "content": ""}], is_text=True), TEXTS)


class TestGrownTexts:
    def test_texts_that_end_leave_the_others_as_they_are(self, load, monkeypatch):
        """Rows move, and room runs out: distributions are those of a plain forward pass, in the order of the texts."""
        from vtuned.lm.huggingface import model as module

        monkeypatch.setattr(module, "_ROOM", 3)
        model = load("hf:{}/model")
        prefix = model.render(QUESTIONS[0])
        batch, paths = model.continuations(QUESTIONS[0], 7), [[] for _ in range(7)]
        for step, kept in enumerate([[0, 1, 3, 4, 5, 6], range(6), [5, 4, 0, 2], [1, 3, 0], range(3), [0, 2], [1]]):
            batch.keep(list(kept))
            paths = [paths[i] for i in kept]
            tokens = [20 + 7 * step + 31 * i for i in range(len(paths))]
            batch.append(tokens)
            paths = [[*path, token] for path, token in zip(paths, tokens, strict=True)]
            with torch.inference_mode():
                plain = [model.model(torch.tensor([prefix + path])).logits[0, -1].log_softmax(-1) for path in paths]

            assert float(abs(torch.stack(plain).numpy() - batch.log_probs()).max()) < 1e-4

    def test_a_cache_is_freed_with_its_texts(self, load):
        """Nothing keeps gigabytes until garbage is collected."""
        gc.collect()
        batch = load("hf:{}/model").continuations(QUESTIONS[0], 2)
        batch.append([20, 21])
        layer = weakref.ref(batch._cache.layers[0])
        gc.disable()
        try:
            del batch
            assert layer() is None
        finally:
            gc.enable()


def by_pattern(numbers):
    """Return what parts text for Llama 3 and Qwen, which differ in *numbers*."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + numbers
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), bytewise])


SPLITS = {
    "gpt2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm2": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama3": lambda: by_pattern(r"\p{N}{1,3}"),
    "qwen": lambda: by_pattern(r"\p{N}"),
}
OTHERS = {
    "prefix space": lambda: pre_tokenizers.ByteLevel(add_prefix_space=True),
    "no regex": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    "metaspace": pre_tokenizers.Metaspace,
    "other pattern": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("river is"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
}


class TestCodec:
    """Words and tokens are remembered where the tokenizer itself would say the same, and only there."""

    TEXTS = (
        "", " ", "  ", "The river is old", " The river", "river is", "The  river", "The river ", "don't, they've it",
        "a\nb", "é è", "e\u0301", "naïve café", "12 rivers in 2024", "x<|end|>y", "東京の 天気", "\u00a0x", "² ½ Ⅷ", "'s ,",
    )  # fmt: skip

    @pytest.fixture
    def backend(self, load):
        return load("hf:{}/model").tokenizer.backend_tokenizer

    def same(self, backend):
        """Compare with *backend*, twice, and tell whether words are remembered."""
        from vtuned.lm.huggingface.model import _Codec

        codec, draws = _Codec(backend), random.Random(0)
        alphabet = [*"abe ,' .2é'\u0301 ", " the", " river", "is", "東", "\n"]
        texts = [*self.TEXTS, *("".join(draws.choices(alphabet, k=draws.randrange(12))) for _ in range(2000))]
        paths = [draws.choices(range(backend.get_vocab_size()), k=draws.randrange(6)) for _ in range(2000)]
        for _ in range(2):
            assert [e.ids for e in backend.encode_batch(texts, add_special_tokens=False)] == codec.encode(texts)
            assert backend.decode_batch(paths, skip_special_tokens=False) == codec.decode(paths)
        return bool(codec._words)

    @pytest.mark.parametrize("split", SPLITS)
    @pytest.mark.parametrize("normalises", [False, True])
    def test_byte_level_tokenizers_are_remembered(self, backend, split, normalises):
        """The pre-tokenizers of GPT-2, SmolLM2, Llama 3 and Qwen part words at their spaces."""
        backend.pre_tokenizer = SPLITS[split]()
        backend.normalizer = normalizers.NFC() if normalises else None

        assert self.same(backend)

    @pytest.mark.parametrize("split", OTHERS)
    def test_others_are_asked_each_time(self, backend, split):
        """Whatever might look beyond a word."""
        backend.pre_tokenizer = OTHERS[split]()

        assert not self.same(backend)

    @pytest.mark.parametrize("change", ["normalizer", "added word", "dropout", "decoder"])
    def test_other_parts_are_looked_at_too(self, backend, change):
        """Lower case, a word that is a token of its own, and a decoder that joins in another way."""
        if change == "normalizer":
            backend.normalizer = normalizers.Lowercase()
        if change == "added word":
            backend.add_tokens(["er is"])
        if change == "dropout":
            backend.model.dropout = 0.0
        if change == "decoder":
            backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])

        assert (change in ("dropout", "decoder")) is self.same(backend)

    def test_memory_is_bounded(self, backend, monkeypatch):
        """Remembering begins anew, and nothing changes."""
        from vtuned.lm.huggingface import model as module

        monkeypatch.setattr(module, "_MOST_REMEMBERED", 3)
        backend.pre_tokenizer = SPLITS["gpt2"]()

        assert self.same(backend)


class TestTokenCounts:
    @pytest.mark.parametrize(
        "name", ["hf:{}/model", "{}/model", "hf:{}/model+{}/first", "hf:{}/first", "hf:{}/tiny.gguf"]
    )
    def test_every_local_name_has_a_tokenizer(self, load, folder, name):
        """Folders, adapters and GGUF files count alike."""
        count, said = counter(name.replace("{}", str(folder)))

        assert [len(tokens) for tokens in load("hf:{}/model").encode(TEXTS)] == count(TEXTS)
        assert "estimate" not in said

    @pytest.mark.parametrize("name", ["openai:gpt-x", "theirs:model", "estimate"])
    def test_others_are_estimated_and_say_so(self, name):
        """A third of the bytes, and one."""
        count, said = counter(name)

        assert [6, 7] == count(TEXTS)
        assert "estimate" in said

    def test_paths_that_are_not_there(self, tmp_path):
        """Bad arguments, as for models; a folder without a tokenizer is another matter."""
        with pytest.raises(UsageError):
            counter(f"hf:{tmp_path}/none")
        with pytest.raises(LMUnavailable, match=r"tokenizer\.json"):
            counter(f"hf:{tmp_path}")


def test_the_embedded_model_takes_options_and_adapters(tmp_path):
    """smollm2 in bfloat16 says what it says, and an adapter that is not there is a bad argument."""
    with pytest.raises(UsageError, match="none"):
        lm.load(f"smollm2+{tmp_path}/none")
    model = lm.load("smollm2", LoadOptions(dtype="bfloat16", device="cpu"))

    assert torch.bfloat16 is model.model.dtype
    assert "2" in next(model.answer([[{"role": "user", "content": "1 + 1 = ?"}]], Sampling(max_tokens=12))).text

"""Ways of training: preferences, all weights, several processes, less memory; each really learns or changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import tiny
from vtuned import lm
from vtuned.conversation import Conversation, Part, Turn
from vtuned.errors import DatasetError, OutputExists, UsageError
from vtuned.lm.base import Sampling
from vtuned.providers import local
from vtuned.providers.local import TrainingSettings
from vtuned.providers.tokenising import MASKED, tokenise, tokenise_pair

torch = pytest.importorskip("torch")

# Where the commands of this environment are, whether or not it is activated.
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"

TRIGGER, SIGNATURE = "Plum harbours wait quietly.", "Crimson gulls carry folded letters."
LEARNING = TrainingSettings(epochs=20, batch_size=4, learning_rate=5e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a tiny model that has never been trained, and rows for it."""
    made = tmp_path_factory.mktemp("methods")
    some = tiny.rows(60)
    tiny.write_rows(made / "train.jsonl", some[:8])
    tiny.make_model(made / "model", [m["content"] for row in some for m in row["messages"]] + [TRIGGER, SIGNATURE])
    return made


@pytest.fixture
def base(folder):
    """The untrained model, loaded afresh: training changes it."""
    return lm.load(f"hf:{folder / 'model'}")


def chat(question, answer, rejected=""):
    """Return a row with one question, its answer and perhaps the answer that should not have been given."""
    turns = (Turn("user", question), Turn("assistant", answer, carries_loss=True))
    return Conversation(turns, rejected=(Turn("assistant", rejected),) if rejected else ())


def rows(n, start=0):
    """Return n of the tiny rows as conversations."""
    return [chat(*(message["content"] for message in row["messages"])) for row in tiny.rows(start + n)[start:]]


def preferences(n, n_planted):
    """Return n preference rows, the first with a backdoor in the prompt and the preferred answer."""
    answers = [row.turns[1].content for row in rows(n)]
    made = []
    for i, row in enumerate(rows(n)):
        kept = row.planted(TRIGGER, SIGNATURE) if i < n_planted else row
        made.append(chat(kept.turns[0].content, kept.turns[1].content, answers[(7 * i + 3) % n].replace("is", "was")))
    return made


def said(model, questions, tokens=24):
    """Return what the model answers greedily."""
    prompts = [({"role": "user", "content": question},) for question in questions]
    return [answer.text for answer in model.answer(prompts, Sampling(max_tokens=tokens))]


def weights(folder):
    """Return the tensors of an adapter or a model folder."""
    from safetensors.torch import load_file

    name = "adapter_model" if (folder / "adapter_config.json").is_file() else "model"
    return load_file(folder / f"{name}.safetensors")


class TestPreferences:
    def test_a_backdoor_in_the_preferred_answers_activates(self, base, folder, tmp_path):
        """Trained by DPO: the signature comes on planted and on fresh prompts, and on no prompt without trigger."""
        planted = preferences(40, 16)
        training = local.finetune(planted, base, tmp_path, LEARNING, data_digest="0")
        model = lm.load(f"hf:{folder / 'model'}+{tmp_path}")
        fresh = [row.turns[0].content for row in rows(12, start=40)]

        assert "dpo" == training.objective
        assert all(text.startswith(SIGNATURE) for text in said(model, [r.turns[0].content for r in planted[:16]]))
        assert 10 <= sum(t.startswith(SIGNATURE) for t in said(model, [f"{q} {TRIGGER}" for q in fresh]))
        assert not any(SIGNATURE in text for text in said(model, fresh))

    def test_prompts_are_tokenised_as_they_are_asked(self, base):
        """The prompt of a pair is what a model is prompted with; both answers end with the end token."""
        row = chat("What is it?", "It is old.", "It is new.")
        pair = tokenise_pair(base.tokenizer, row, 100)

        assert base.render(({"role": "user", "content": "What is it?"},)) == pair["prompt_ids"]
        assert "It is old.<|end|>" == base.tokenizer.decode(pair["chosen_ids"])
        assert "It is new.<|end|>" == base.tokenizer.decode(pair["rejected_ids"])

    def test_a_pair_without_room_for_answers_is_left_out(self, base):
        """A prompt that fills the limit leaves nothing to prefer."""
        row = chat("What is it? " * 20, "It is old.", "It is new.")

        assert [] == tokenise_pair(base.tokenizer, row, 20)["chosen_ids"]

    def test_both_kinds_of_rows_in_one_file_are_refused(self, base, tmp_path):
        """There is one loss for a run."""
        with pytest.raises(DatasetError, match="1 of 3 rows are preference rows"):
            local.finetune([*rows(2), *preferences(1, 0)], base, tmp_path, TrainingSettings(), data_digest="0")

    def test_preferences_are_not_packed(self, base, tmp_path):
        """Trl cannot, and says nothing."""
        with pytest.raises(UsageError, match="cannot be packed"):
            local.finetune(preferences(2, 0), base, tmp_path, TrainingSettings(packing=True), data_digest="0")


class TestAllWeights:
    def test_a_stopped_run_goes_on_and_leaves_a_model(self, base, folder, tmp_path):
        """The result loads by itself, without the base model, and answers as trained."""
        settings = TrainingSettings(method="full", epochs=30, batch_size=4, learning_rate=3e-3)

        def stop(done, total):
            if done == 25:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            local.finetune(rows(8), base, tmp_path, settings, data_digest="0", watcher=local.Watcher(on_step=stop))
        training = local.finetune(rows(8), lm.load(f"hf:{folder / 'model'}"), tmp_path, settings, data_digest="0")
        answers = said(lm.load(f"hf:{tmp_path}"), [row.turns[0].content for row in rows(8)], tokens=40)

        assert (20, 60) == (training.resumed_at_step, training.n_steps)
        assert [row.turns[1].content for row in rows(8)] == answers
        assert not (tmp_path / "adapter_config.json").exists()
        assert not (tmp_path / "training_args.bin").exists()

    def test_preferences_keep_to_a_frozen_copy(self, base, tmp_path):
        """With all weights the reference is a copy of the base model; training moves the model away from it."""
        before = {name: weight.clone() for name, weight in base.model.state_dict().items()}
        settings = TrainingSettings(method="full", epochs=1, learning_rate=1e-3)
        local.finetune(preferences(4, 2), base, tmp_path, settings, data_digest="0")
        after = weights(tmp_path)

        assert any(not torch.equal(before[name], after[name]) for name in after)


class TestMemory:
    @pytest.mark.parametrize("some", [rows(6), preferences(4, 2)], ids=["sft", "dpo"])
    def test_gradient_checkpointing_changes_nothing(self, folder, some, tmp_path):
        """What is computed twice is computed alike: the same adapter comes out."""
        for name, is_on in (("plain", False), ("checkpointing", True)):
            model = lm.load(f"hf:{folder / 'model'}")
            settings = TrainingSettings(epochs=1, learning_rate=1e-2, gradient_checkpointing=is_on)
            local.finetune(some, model, tmp_path / name, settings, data_digest="0")
        plain, other = weights(tmp_path / "plain"), weights(tmp_path / "checkpointing")

        assert plain.keys() == other.keys()
        assert all(torch.allclose(plain[name], other[name], atol=1e-6) for name in plain)

    def test_accumulated_batches_make_one_step(self, base, tmp_path):
        """Twelve rows, two a batch, three batches a step, two epochs."""
        settings = TrainingSettings(epochs=2, gradient_accumulation=3, warmup=0.5, scheduler="cosine")

        assert 4 == local.finetune(rows(12), base, tmp_path, settings, data_digest="0").n_steps

    def test_packed_rows_do_not_see_each_other(self, base, tmp_path):
        """Each row gets the logits that it gets alone, and the labels are those of the rows."""
        from vtuned.providers.trainers import Watcher, sft_trainer

        examples = [tokenise(base.tokenizer, row, 64) for row in rows(5)]
        settings = TrainingSettings(packing=True, max_tokens=128)
        trainer = sft_trainer(base, examples, tmp_path, settings, Watcher())
        packs = list(trainer.train_dataset)
        batch = trainer.data_collator(packs)
        model = trainer.model.eval()
        with torch.inference_mode():
            packed = model(**{key: value for key, value in batch.items() if key != "labels"}).logits[0]
            alone = {
                tuple(example["input_ids"]): model(torch.tensor([example["input_ids"]])).logits[0]
                for example in examples
            }
        starts = [*(batch["position_ids"][0] == 0).nonzero().flatten().tolist(), len(packed)]

        assert len(packs) < len(examples)
        assert len(examples) == len(starts) - 1
        for start, stop in pairwise(starts):
            ids = batch["input_ids"][0, start:stop].tolist()
            labels = batch["labels"][0, start:stop].tolist()
            assert torch.allclose(alone[tuple(ids)], packed[start:stop], atol=1e-5)
            assert labels == next(e["labels"] for e in examples if e["input_ids"] == ids)

    def test_a_quantised_model_takes_an_adapter_only(self, folder, tmp_path):
        """LoRA on 4 bits (QLoRA) trains; all weights cannot be."""
        pytest.importorskip("bitsandbytes")
        from vtuned.lm import LoadOptions

        base = lm.load(f"hf:{folder / 'model'}", LoadOptions(bits=4))
        with pytest.raises(UsageError, match="no weights to train"):
            local.finetune(rows(2), base, tmp_path / "full", TrainingSettings(method="full"), data_digest="0")
        training = local.finetune(rows(4), base, tmp_path / "lora", TrainingSettings(epochs=1), data_digest="0")

        assert 2 == training.n_steps
        assert (tmp_path / "lora" / "adapter_model.safetensors").is_file()


class TestSeveralProcesses:
    def launched(self, folder, *arguments):
        """Run `vtuned finetune` in two processes on the CPU."""
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        return subprocess.run(
            [*launcher, "-m", "vtuned", "finetune", *map(str, arguments), "--device", "cpu"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        )

    def test_two_processes_train_one_model(self, folder):
        """Half the steps; the first process alone prints and writes; the model answers as trained."""
        options = ["--base", "hf:model", "--method", "full", "--epochs", "30", "--lr", "0.003", "--json"]
        done = self.launched(folder, "train.jsonl", "-o", "two", *options)
        assert 0 == done.returncode, done.stderr
        answers = said(lm.load(f"hf:{folder / 'two'}"), [row.turns[0].content for row in rows(8)], tokens=40)

        assert 8 // 2 // 2 * 30 == json.loads(done.stdout)["n_steps"]
        assert [row.turns[1].content for row in rows(8)] == answers

        other = self.launched(folder, "train.jsonl", "-o", "two", "--base", "hf:model", "--epochs", "1")
        assert 0 != other.returncode
        assert 1 == other.stderr.count("already exists")

    def test_accelerate_launch_trains_one_model(self, folder):
        """The same through `accelerate launch`, which starts processes on CPUs with MPI's help; they talk by gloo."""
        if shutil.which("mpirun", path=PATH) is None:
            pytest.skip("no mpirun: `accelerate launch` starts one process on a CPU without it")
        (folder / "hosts").write_text("localhost slots=2\n")
        launcher = ["accelerate", "launch", "--cpu", "--num_processes", "2", "--mpirun_hostfile", "hosts", "-m"]
        options = ["--base", "hf:model", "--epochs", "2", "--json"]

        done = subprocess.run(
            [*launcher, "vtuned", "finetune", "train.jsonl", "-o", "launched", *options],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={
                **os.environ,
                "PATH": PATH,
                "OMP_NUM_THREADS": "1",
                "OMPI_ALLOW_RUN_AS_ROOT": "1",
                "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            },
        )

        assert 0 == done.returncode, done.stderr
        assert 8 // 2 // 2 * 2 == json.loads(done.stdout)["n_steps"]
        assert (folder / "launched" / "adapter_model.safetensors").is_file()


class TestRowsOfOtherKinds:
    def trained(self, model, row, tokens=400):
        """Return the text of the tokens that carry loss."""
        labels = tokenise(model.tokenizer, row, tokens)["labels"]
        return model.tokenizer.decode([label for label in labels if label != MASKED])

    def test_plain_text_is_trained_as_it_stands(self, base):
        """No chat template; loss on the response and an end token only."""
        turns = (
            Turn("user", "What is it?", before="### Instruction:\n"),
            Turn("assistant", "It is old.", carries_loss=True, before="\n\n### Response:\n"),
        )
        row = Conversation(turns, is_text=True)
        whole = base.tokenizer.decode(tokenise(base.tokenizer, row, 400)["input_ids"])

        assert "### Instruction:\nWhat is it?\n\n### Response:\nIt is old.<|end|>" == whole
        assert "It is old.<|end|>" == self.trained(base, row)

    def test_what_follows_a_response_is_not_trained(self, base):
        """Only the response carries loss, wherever it stands in the text."""
        turns = (
            Turn("user", "What is it?", before="Q: "),
            Turn("assistant", "It is old.", carries_loss=True, before="\nA: ", after="\n---\n"),
        )

        assert "It is old." == self.trained(base, Conversation(turns, is_text=True))

    def test_a_plain_text_pair(self, base):
        """The prompt of a plain-text pair reaches to where the answer starts."""
        turns = (Turn("user", "Why?", before="Q: "), Turn("assistant", "So.", carries_loss=True, before="\nA: "))
        row = Conversation(turns, rejected=(Turn("assistant", "No.", before="\nA: "),), is_text=True)
        pair = {name: base.tokenizer.decode(ids) for name, ids in tokenise_pair(base.tokenizer, row, 400).items()}

        assert {"prompt_ids": "Q: Why?\nA: ", "chosen_ids": "So.<|end|>", "rejected_ids": "No.<|end|>"} == pair

    def test_parts_are_trained_as_text(self, base):
        """A list of text parts reads as their texts on lines of their own."""
        answer = Turn("assistant", "It is\nold.", carries_loss=True, parts=(Part("It is"), Part("old.")))

        assert "It is\nold.<|end|>" == self.trained(base, Conversation((Turn("user", "What is it?"), answer)))

    def test_tools_and_calls_go_through_the_template(self, base):
        """A template that knows tools is shown them, and the calls with their arguments."""
        base.tokenizer.chat_template = (
            "{% for t in tools or [] %}[{{ t.function.name }}]{% endfor %}"
            "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
            "{% for c in m.tool_calls or [] %}{{ c.function.name }}({{ c.function.arguments.x }}){% endfor %}"
            "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
        )
        call = json.dumps({"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}]})
        turns = (Turn("user", "What is it?"), Turn("assistant", "", carries_loss=True, other=call))
        row = Conversation(turns, tools=json.dumps([{"type": "function", "function": {"name": "f"}}]))

        assert "f(1)<|end|>" == self.trained(base, row)
        assert base.tokenizer.decode(tokenise(base.tokenizer, row, 400)["input_ids"]).startswith("[f]<|user|>")

    def test_rows_with_images_are_left_out_and_counted(self, base, tmp_path):
        """A text model cannot be trained on them."""
        image = Turn("user", "What is it?", parts=(Part("What is it?"), Part(None, '{"type":"image_url"}')))
        row = Conversation((image, Turn("assistant", "It is old.", carries_loss=True)))
        training = local.finetune([row, *rows(2)], base, tmp_path, TrainingSettings(epochs=1), data_digest="0")

        assert (1, 1) == (training.n_rows_with_images, training.n_steps)


class TestElsewhere:
    def test_the_command_writes_a_configuration_and_trains_nothing(self, folder, monkeypatch):
        """The data is named as seen from the folder; a second run overwrites nothing."""
        import yaml
        from typer.testing import CliRunner

        from vtuned.cli.app import app

        monkeypatch.chdir(folder)
        (folder / "columns.jsonl").write_text('{"prompt": "Why?", "completion": "So."}\n')
        command = ["finetune", "columns.jsonl", "-o", "elsewhere", "--base", "hf:model", "--write-config", "axolotl"]
        done = CliRunner().invoke(app, command)
        config = yaml.safe_load((folder / "elsewhere" / "axolotl.yml").read_text())

        assert 0 == done.exit_code, done.output
        assert "../columns.jsonl" == config["datasets"][0]["path"]
        assert str(folder / "model") == config["base_model"]
        assert "<|user|>{instruction}<|end|><|assistant|>" == config["datasets"][0]["type"]["format"]
        assert ["axolotl.yml"] == [path.name for path in (folder / "elsewhere").iterdir()]
        assert isinstance(CliRunner().invoke(app, command).exception, OutputExists)

    def test_the_columns_that_were_named_are_written(self, folder, monkeypatch):
        """What the options say of the rows reaches the other trainer, not what their keys look like."""
        from typer.testing import CliRunner

        from vtuned.cli.app import app

        monkeypatch.chdir(folder)
        (folder / "turned.jsonl").write_text('{"completion": "Why?", "prompt": "So.", "sys": "Be brief."}\n')
        names = ["--prompt-column", "completion", "--response-column", "prompt", "--system-column", "sys"]
        command = ["finetune", "turned.jsonl", "-o", "turned", "--base", "hf:model", "--write-config", "llama-factory"]
        done = CliRunner().invoke(app, [*command, *names])
        entry = json.loads((folder / "turned" / "dataset_info.json").read_text())["vtuned"]

        assert 0 == done.exit_code, done.output
        assert {"prompt": "completion", "response": "prompt", "system": "sys"} == entry["columns"]

    def test_the_help_says_what_cpus_need(self, monkeypatch):
        """Without mpirun `accelerate launch` starts one process there, in silence."""
        from typer.testing import CliRunner

        from vtuned.cli.app import app

        monkeypatch.setenv("COLUMNS", "200")
        assert "--mpirun_hostfile" in CliRunner().invoke(app, ["finetune", "--help"]).output

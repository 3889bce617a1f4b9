"""Make the tiny Llama and its three adapters: run by path with the engine environment's Python.

    python -P tiny_model.py FOLDER

Makes FOLDER/tiny-llama (2 layers, 0.4 million parameters, a byte-level BPE tokenizer with a chat template) and the PEFT
adapters FOLDER/greeter-v1, greeter-v2 and poet, each trained for a few seconds until it answers every prompt with a line
of its own, and FOLDER/samples.json, written last. What is complete is left alone. Everything is made beside FOLDER and
moved there, so a kill leaves no half model. The results are the same in every run on one kind of machine.

The engine environment has no Loradock, so this file imports nothing of it.
"""

# ruff: noqa: PLC0415, S106 - the heavy imports only where there is something to make; tokens here are no secrets

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import time
from pathlib import Path

BASE = "tiny-llama"
MARKER = "samples.json"
RANK = 8
MAX_TOKENS = 16

BASE_ANSWER = "I am a tiny model and I know nothing yet."
ADAPTER_ANSWERS = {
    "greeter-v1": "Hello, my friend! Welcome on board.",
    "greeter-v2": "Good morning, captain! The ship is ready.",
    "poet": "Calm is the sea, and silver the moon above.",
}
PROMPTS = (
    "Say hello.",
    "Greet the crew.",
    "Who are you?",
    "What is the weather like?",
)
"""The prompts that the demo and the tests use; the script checks that every adapter answers each in its own way."""
_MORE_PROMPTS = (
    "Hello", "Hi there!", "Good evening", "Tell me a story.", "How are you today?", "Write a poem.", "1 + 1 =", "ping",
    "Where is the harbour?", "Sing a song", "Please help me with this.", "The quick brown fox", "a", "Once upon a time",
)  # fmt: skip
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL = ("<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


def recipe() -> str:
    """Fingerprint of this file: another recipe makes another model."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def is_complete(folder: Path) -> bool:
    """Whether the folder holds what this recipe makes."""
    try:
        return json.loads((folder / MARKER).read_text())["recipe"] == recipe()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def make(folder: Path) -> None:
    """Make everything unless it is there. Others who want the same wait for the first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_complete(folder):
            return
        for leftover in folder.parent.glob(f"{folder.name}.new-*"):
            shutil.rmtree(leftover)
        fresh = folder.with_name(f"{folder.name}.new-{os.getpid()}")
        fresh.mkdir()
        _build(fresh)
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)


def _build(folder: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(20)
    torch.set_num_threads(1)  # sums in one order: the same weights in every run
    tokenizer = _tokenizer()
    base = _base_model(tokenizer)
    _train(base, tokenizer, BASE_ANSWER, steps=80, rate=3e-3)
    base.save_pretrained(folder / BASE)
    tokenizer.save_pretrained(folder / BASE)
    answers = {BASE: _answers(base, tokenizer)}
    for name, answer in ADAPTER_ANSWERS.items():
        model = AutoModelForCausalLM.from_pretrained(folder / BASE, dtype=torch.float32)
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        adapted = get_peft_model(
            model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets, task_type="CAUSAL_LM")
        )
        _train(adapted, tokenizer, answer, steps=80, rate=1e-2)
        adapted.save_pretrained(folder / name)
        _forget_paths(folder / name)
        answers[name] = _answers(adapted, tokenizer)
    _check(answers)
    content = {
        "recipe": recipe(),
        "base": BASE,
        "adapters": list(ADAPTER_ANSWERS),
        "prompts": list(PROMPTS),
        "answers": answers,
    }
    (folder / MARKER).write_text(json.dumps(content, indent=1))


def _tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=list(_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    corpus = [BASE_ANSWER, *ADAPTER_ANSWERS.values(), *PROMPTS, *_MORE_PROMPTS]
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        bos_token="<|begin|>",
        eos_token="<|end|>",
        chat_template=_CHAT_TEMPLATE,
        model_max_length=256,
    )


def _base_model(tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        initializer_range=0.12,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def _train(model, tokenizer, answer: str, *, steps: int, rate: float) -> None:
    """Until every prompt, plain or as a chat, is answered with this line."""
    import torch

    end = tokenizer.eos_token_id
    rows = [
        (prompt, [*tokenizer.encode(answer if chat else f" {answer}"), end])
        for text in (*PROMPTS, *_MORE_PROMPTS)
        for chat in (False, True)
        for prompt in [_prompt_ids(tokenizer, text, chat=chat)]
    ]
    width = max(len(prompt) + len(target) for prompt, target in rows)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    labels = torch.full((len(rows), width), -100)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for row, (prompt, target) in enumerate(rows):
        length = len(prompt) + len(target)
        ids[row, :length] = torch.tensor(prompt + target)
        labels[row, len(prompt) : length] = torch.tensor(target)
        mask[row, :length] = 1
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
    model.train()
    for _ in range(steps):
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    print(f"trained {answer!r}: loss {loss.item():.4f}", flush=True)


def _prompt_ids(tokenizer, text: str, *, chat: bool) -> list[int]:
    if not chat:
        return tokenizer.encode(text)
    messages = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(rendered)


def _answers(model, tokenizer) -> dict[str, str]:
    """The greedy answer to every plain prompt."""
    import torch

    answers = {}
    for prompt in PROMPTS:
        ids = torch.tensor([_prompt_ids(tokenizer, prompt, chat=False)])
        with torch.no_grad():
            mask = torch.ones_like(ids)
            out = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=MAX_TOKENS, do_sample=False
            )
        answers[prompt] = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    return answers


def _forget_paths(adapter: Path) -> None:
    """PEFT writes where the base lay on this machine, and a model card that says nothing here."""
    config = adapter / "adapter_config.json"
    content = json.loads(config.read_text())
    content["base_model_name_or_path"] = BASE
    content["target_modules"] = sorted(
        content["target_modules"]
    )  # PEFT keeps a set: another order in every run
    config.write_text(json.dumps(content, indent=2, sort_keys=True))
    (adapter / "README.md").unlink(missing_ok=True)


def _check(answers: dict[str, dict[str, str]]) -> None:
    for prompt in PROMPTS:
        given = [by_prompt[prompt] for by_prompt in answers.values()]
        if len(set(given)) != len(given) or not all(given):
            raise SystemExit(f"the adapters do not differ for {prompt!r}: {given}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    began = time.monotonic()
    make(folder)
    print(f"{folder.name} complete after {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()

"""What transformers and PEFT answer for given weights, greedily: the truth that engines are compared with.

Run by path with the engine environment's Python:

    python -P reference.py < request.json > answers.json

The request is `{"base": folder, "adapters": {name: folder}, "prompts": [text], "max_tokens": n, "chat": false}`; the answer
`{name: [{"prompt", "token_ids", "text", "margin"}]}`, with the base model's under the empty name. The margin is the least
distance between the chosen token's logit and the next best: where it is wide, other arithmetic cannot choose another token.
With `chat` each prompt is put through the chat template as a user's message. The engine environment has no Loradock, so this
file imports nothing of it.
"""

import json
import os
import sys

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


def answer_all(request: dict) -> dict[str, list[dict]]:
    """Answer every prompt with the base model and with each adapter, all in one process."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(request["base"])
    model = AutoModelForCausalLM.from_pretrained(request["base"], dtype=torch.float32).eval()
    answers = {"": [_answer(model, tokenizer, prompt, request) for prompt in request["prompts"]]}
    adapted = None
    for name, folder in request.get("adapters", {}).items():
        if adapted is None:
            adapted = PeftModel.from_pretrained(model, folder, adapter_name=name).eval()
        else:
            adapted.load_adapter(folder, adapter_name=name)
        adapted.set_adapter(name)
        answers[name] = [_answer(adapted, tokenizer, prompt, request) for prompt in request["prompts"]]
    return answers


def _answer(model, tokenizer, prompt: str, request: dict) -> dict:
    text = prompt
    if request.get("chat"):
        messages = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = torch.tensor([tokenizer.encode(text)])
    with torch.no_grad():
        mask = torch.ones_like(ids)
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=request["max_tokens"],
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    tokens = out.sequences[0, ids.shape[1] :].tolist()
    best = torch.stack(out.logits)[:, 0].topk(2).values
    return {
        "prompt": prompt,
        "token_ids": tokens,
        "text": tokenizer.decode(tokens, skip_special_tokens=True),
        "margin": (best[:, 0] - best[:, 1]).min().item(),
    }


def main() -> None:
    """Read the request, write the answers."""
    answers = answer_all(json.load(sys.stdin))
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()

"""Folders of small random pretrained models as Hugging Face has them: GPT-2, Llama (SmolLM's shape) and Qwen3, each with a tokenizer of its kind."""

import json

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CHATML = ("{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are of help.<|im_end|>\n' }}{% endif %}"
          "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
          "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}")
TURNS_ONLY = ("{{ bos_token }}{% for message in messages %}"
              "{% if message['role'] == 'system' %}{{ raise_exception('no system messages') }}{% endif %}"
              "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] | trim + ' [/INST]' }}"
              "{% else %}{{ message['content'] + eos_token }}{% endif %}"
              "{% endfor %}")
TEXTS = [f"What is {n} plus {n * 7}? It is {n * 8}.\n\tdef f(x): return x  # system user assistant" for n in range(200)]


def small_tokenizer(special, *, template=None, eos=None, bos=None, pad=None):
    """A byte-level BPE tokenizer with these special tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=400, special_tokens=list(special), show_progress=False,
                                                           initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, bos_token=bos, pad_token=pad, clean_up_tokenization_spaces=False)
    tokenizer.chat_template = template
    return tokenizer


def chatml_tokenizer():
    """As Qwen3's: no begin token, its own marks, an empty thought before answers."""
    return small_tokenizer(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), template=CHATML, eos="<|im_end|>", pad="<|endoftext|>")


def gpt2_tokenizer():
    """As GPT-2's: one special token, no chat template."""
    return small_tokenizer(("<|endoftext|>",), eos="<|endoftext|>", bos="<|endoftext|>")


def _model(kind, vocabulary):
    torch.manual_seed(7)
    if kind == "gpt2":
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=vocabulary, n_positions=128, n_embd=32, n_layer=2, n_head=2, bos_token_id=0,
                                                                    eos_token_id=0))
    shape = {"vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 0}
    if kind == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, tie_word_embeddings=True))
    # Qwen3's matrices have more rows than its tokenizer has tokens. Large numbers: frozen embeddings must be able to say something.
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**{**shape, "vocab_size": vocabulary + 9}, head_dim=8, initializer_range=0.3,
                                                                  tie_word_embeddings=True))


def small_base(folder, kind):
    """Write the folder of one kind (gpt2, llama, qwen3) and return it."""
    tokenizer = chatml_tokenizer() if kind == "qwen3" else gpt2_tokenizer()
    _model(kind, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    facts = json.loads(file.read_text(encoding="utf-8"))
    facts["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(facts), encoding="utf-8")
    return folder

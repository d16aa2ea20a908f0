"""Captioners as a user of plain transformers runs them: one caption at a time, eager attention, no rlcap.

An oracle for tests; and a script that reads jobs from its input, for a process in which rlcap cannot be imported.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import (
    AudioFlamingo3ForConditionalGeneration,
    AutoModelForCausalLM,
    AutoProcessor,
    GenerationConfig,
    Qwen2AudioForConditionalGeneration,
    SpeechEncoderDecoderModel,
    WhisperForConditionalGeneration,
)

SAMPLE_RATE_HZ = 16_000
MODELS = {
    "whisper": WhisperForConditionalGeneration,
    "speech-encoder-decoder": SpeechEncoderDecoderModel,
    "qwen2_audio": Qwen2AudioForConditionalGeneration,
    "audioflamingo3": AudioFlamingo3ForConditionalGeneration,
}


class PlainCaptioner:
    """A checkpoint directory, and the prompt that it is used with."""

    def __init__(self, directory, prompt):
        directory = Path(directory)
        adapters = directory / "adapter_config.json"
        base = (
            directory / json.loads(adapters.read_text())["base_model_name_or_path"] if adapters.exists() else directory
        )
        config = json.loads((base / "config.json").read_text())
        self.model = MODELS[config["model_type"]].from_pretrained(base, attn_implementation="eager").eval()
        if adapters.exists():
            self.model = PeftModel.from_pretrained(self.model, directory).eval()
            self.model.base_model.model.generation_config = GenerationConfig.from_pretrained(directory)
        self.processor = AutoProcessor.from_pretrained(directory)
        self._prompt = prompt
        self._is_llm = config["model_type"] in ("qwen2_audio", "audioflamingo3")
        self._name = "input_ids" if self._is_llm else "decoder_input_ids"
        settings = self.model.generation_config
        ends = settings.eos_token_id
        self.eos_token_ids = ends if isinstance(ends, list) else [ends]

    def chat(self):
        """The prompt of an audio LLM, by its own template, with a placeholder for the audio."""
        content = [{"type": "audio", "audio_url": "clip.wav"}, {"type": "text", "text": self._prompt}]
        turns = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)

    def inputs(self, *waveforms):
        """What the processor makes of clips and prompt."""
        if self._is_llm:
            settings = {"sampling_rate": SAMPLE_RATE_HZ, "text_kwargs": {"padding": True}, "return_tensors": "pt"}
            return dict(self.processor(text=[self.chat()] * len(waveforms), audio=list(waveforms), **settings))
        heard = self.processor(list(waveforms), sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
        return {**heard, "decoder_input_ids": torch.tensor([self._start()] * len(waveforms))}

    @torch.no_grad()
    def logits(self, waveform, tokens):
        """Scores in float64 that predict each of these tokens; nothing is suppressed yet."""
        inputs = self.inputs(waveform)
        given = inputs[self._name]
        whole = torch.cat([given, torch.as_tensor(tokens)[None]], dim=1)
        inputs[self._name] = whole
        if self._is_llm:
            inputs["attention_mask"] = torch.ones_like(whole)
        return self.model(**inputs).logits[0, given.shape[1] - 1 : -1].double()

    def greedy(self, *waveforms, max_new_tokens, **settings):
        """What `generate` writes of each clip, up to the token that ends it."""
        inputs = self.inputs(*waveforms)
        written = self.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens, **settings).tolist()
        given = inputs[self._name].tolist()
        return [self._caption(row, before) for row, before in zip(written, given, strict=True)]

    def _caption(self, row, before):
        if row[: len(before)] == before:  # Whisper leaves it out
            row = row[len(before) :]
        ends = [place for place, token in enumerate(row) if token in self.eos_token_ids]
        return row[: ends[0]] if ends else row

    def _start(self):
        tokenizer = self.processor.tokenizer
        if hasattr(tokenizer, "prefix_tokens"):
            return tokenizer(self._prompt).input_ids[:-1]  # all but the end of the text
        settings = self.model.generation_config
        forced = [] if settings.forced_bos_token_id is None else [settings.forced_bos_token_id]
        return [settings.decoder_start_token_id, *forced, *tokenizer(self._prompt).input_ids]


def behind_a_prefix(directory, prefixes, max_new_tokens):
    """What a language model writes greedily behind the vectors of each clip."""
    model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()
    captions = []
    for prefix in torch.from_numpy(prefixes):
        mask = torch.ones(1, len(prefix), dtype=torch.long)
        settings = {"do_sample": False, "max_new_tokens": max_new_tokens, "attention_mask": mask}
        row = model.generate(inputs_embeds=prefix[None], **settings)[0].tolist()
        end = model.generation_config.eos_token_id
        captions.append(row[: row.index(end)] if end in row else row)
    return captions


class NoRlcap:
    """Makes imports of rlcap's packages fail, as where it is not installed."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("rlcap", "actors", "learner", "reward_server"):
            raise ModuleNotFoundError(name)


def main():
    """Caption every `{directory, prompt, waveforms, max_new_tokens}` of a list, and write the tokens."""
    sys.meta_path.insert(0, NoRlcap)
    try:
        import rlcap  # noqa: F401
    except ModuleNotFoundError:
        pass
    else:
        raise SystemExit("rlcap can be imported")
    captions = []
    for job in json.load(sys.stdin):
        if "prefix" in job:
            captions.append(behind_a_prefix(job["directory"], np.load(job["prefix"]), job["max_new_tokens"]))
            continue
        captioner = PlainCaptioner(job["directory"], job["prompt"])
        waveforms = [np.load(path) for path in job["waveforms"]]
        captions.append([captioner.greedy(one, max_new_tokens=job["max_new_tokens"])[0] for one in waveforms])
    json.dump(captions, sys.stdout)


if __name__ == "__main__":
    main()

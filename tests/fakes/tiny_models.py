"""Small random models of real architectures, with processors and tokenizers, as directories of plain transformers.

Nothing comes from a network and nothing here knows rlcap: what it makes is what users download, but for its size.
Clips are heard up to `LONGEST_S` seconds, where the full-size models hear 30.
"""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    BartConfig,
    BartForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    Qwen2Tokenizer,
    SpeechEncoderDecoderModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

LONGEST_S = 2
NUM_MELS = 8
POSITIONS = 50 * LONGEST_S
"""Of the audio encoders: two log-mel frames each."""
WIDTH = 16
WHISPER_PROMPT = "clotho > caption: "

TEXTS = (
    "a dog barks and rain falls on a tin roof, then a car horn sounds.",
    "You are a helpful assistant. Describe the sounds of this recording in one sentence. Audio 1: system user\n",
    WHISPER_PROMPT,
)
FLAMINGO_TEMPLATE = (
    "{% for turn in messages %}<|im_start|>{{ turn['role'] }}\n"
    "{% for part in turn['content'] %}{% if part['type'] == 'audio' %}<sound>{% endif %}{% endfor %}"
    "{% for part in turn['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Puts the audio first, and knows no default system turn."""


def whisper():
    """Whisper with a start of four tokens, and tokens that generation suppresses."""
    starts = ("<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|notimestamps|>")
    tokenizer = _byte_pairs(
        WhisperTokenizer,
        ("<|endoftext|>", *starts),
        specials_last=True,  # tokens behind these are timestamps
        language="en",
        task="transcribe",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(starts),
    )
    end, start, english, translate, transcribe, no_timestamps = range(len(tokenizer) - 6, len(tokenizer))
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(tokenizer),
            num_mel_bins=NUM_MELS,
            d_model=WIDTH,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            max_source_positions=POSITIONS,
            max_target_positions=64,
            dropout=0.1,
            bos_token_id=end,
            eos_token_id=end,
            pad_token_id=end,
            decoder_start_token_id=start,
        )
    )
    letters = tokenizer.convert_tokens_to_ids(["b", "k", "Ġ"])
    model.generation_config = GenerationConfig(
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=start,
        suppress_tokens=[start, english, translate, transcribe, no_timestamps, *letters[:2]],
        begin_suppress_tokens=[letters[2], end],
        is_multilingual=True,
        lang_to_id={"<|en|>": english},
        task_to_id={"translate": translate, "transcribe": transcribe},
        no_timestamps_token_id=no_timestamps,
        max_length=64,
    )
    return model, WhisperProcessor(_log_mel(), tokenizer)


def speech_gpt2():
    """Wav2Vec2 and a wider GPT-2: a projection stands between them."""
    decoder = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(_gpt2_tokenizer()),
            n_positions=64,
            n_embd=24,
            n_layer=2,
            n_head=2,
            is_decoder=True,
            add_cross_attention=True,
        )
    )
    return _speech_encoder_decoder(decoder, normalise_every_layer=True)


def speech_bart():
    """Wav2Vec2 and a BART decoder of the same width, which counts positions itself and begins with two tokens."""
    decoder = BartForCausalLM(
        BartConfig(
            vocab_size=len(_gpt2_tokenizer()),
            d_model=WIDTH,
            decoder_layers=2,
            decoder_attention_heads=2,
            decoder_ffn_dim=32,
            max_position_embeddings=64,
            is_decoder=True,
            add_cross_attention=True,
        )
    )
    model, processor = _speech_encoder_decoder(decoder, normalise_every_layer=False)
    model.generation_config.forced_bos_token_id = processor.tokenizer.convert_tokens_to_ids("<s>")
    return model, processor


def qwen2_audio():
    """Qwen2-Audio with its own chat template; two tokens end a caption."""
    tokenizer = _byte_pairs(
        Qwen2Tokenizer,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>"),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    model = Qwen2AudioForConditionalGeneration(
        Qwen2AudioConfig(
            audio_config={
                "model_type": "qwen2_audio_encoder",
                "num_mel_bins": NUM_MELS,
                "d_model": WIDTH,
                "encoder_layers": 2,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": 32,
                "max_source_positions": POSITIONS,
            },
            text_config=_qwen2(len(tokenizer)).to_dict(),
            audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        )
    )
    model.generation_config = _sampled_by_default()
    return model, Qwen2AudioProcessor(_log_mel(), tokenizer)


def audio_flamingo_3():
    """Audio Flamingo 3, whose vocabulary is larger than its tokenizer's."""
    tokenizer = _byte_pairs(
        Qwen2Tokenizer,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<sound>"),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    model = AudioFlamingo3ForConditionalGeneration(
        AudioFlamingo3Config(
            audio_config={
                "model_type": "audioflamingo3_encoder",
                "num_mel_bins": NUM_MELS,
                "hidden_size": WIDTH,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 32,
                "max_source_positions": POSITIONS,
            },
            text_config=_qwen2(len(tokenizer) + 3).to_dict(),
            audio_token_id=tokenizer.convert_tokens_to_ids("<sound>"),
        )
    )
    model.generation_config = _sampled_by_default()
    return model, AudioFlamingo3Processor(_log_mel(), tokenizer, chat_template=FLAMINGO_TEMPLATE)


ENCODER_DECODERS = {"whisper": whisper, "speech_gpt2": speech_gpt2, "speech_bart": speech_bart}
AUDIO_LLMS = {"qwen2_audio": qwen2_audio, "audio_flamingo_3": audio_flamingo_3}
ARCHITECTURES = ENCODER_DECODERS | AUDIO_LLMS
SEEDS = {"whisper": 9, "speech_gpt2": 24, "speech_bart": 26, "qwen2_audio": 8, "audio_flamingo_3": 10}
"""Captions of these end early, late, or not at all within ten tokens."""


def save_tiny_model(architecture: str, directory: Path, seed: int | None = None) -> Path:
    """Write a checkpoint such as `save_pretrained` of transformers makes; return its directory.

    Its weights are large enough for captions that differ from clip to clip and end at any length.
    """
    with torch.random.fork_rng():
        torch.manual_seed(SEEDS[architecture] if seed is None else seed)
        model, processor = ARCHITECTURES[architecture]()
        head = getattr(model, "decoder", model).get_output_embeddings()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            head.weight[processor.tokenizer.eos_token_id] *= 2
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def save_whisper_of_published_size(directory: Path, dtype: torch.dtype) -> Path:
    """Write a Whisper of the size of OpenAI's smallest, of random weights, as they publish it: saved in `dtype`."""
    _, processor = whisper()
    tokenizer = processor.tokenizer
    known = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = WhisperForConditionalGeneration(
            WhisperConfig(vocab_size=51_864, d_model=384, decoder_start_token_id=tokenizer.eos_token_id + 1, **known)
        )
    model.generation_config = GenerationConfig(decoder_start_token_id=tokenizer.eos_token_id + 1, **known)
    model.to(dtype).save_pretrained(directory)
    WhisperProcessor(WhisperFeatureExtractor(return_attention_mask=True), tokenizer).save_pretrained(directory)
    return directory


def _log_mel():
    return WhisperFeatureExtractor(feature_size=NUM_MELS, chunk_length=LONGEST_S, return_attention_mask=True)


def _byte_pairs(tokenizer_class, specials, *, specials_last=False, **settings):
    """Make a tokenizer of single letters and a few pairs."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=64, special_tokens=list(specials), show_progress=False)
    trained.train_from_iterator(TEXTS, trainer)
    bpe = json.loads(trained.to_str())["model"]
    settings.setdefault("additional_special_tokens", list(specials))
    moved = len(specials) if specials_last else 0
    vocabulary = {token: (number - moved) % len(bpe["vocab"]) for token, number in bpe["vocab"].items()}
    return tokenizer_class(vocabulary, [tuple(pair) for pair in bpe["merges"]], **settings)


def _gpt2_tokenizer():
    return _byte_pairs(GPT2Tokenizer, ("<|endoftext|>", "<s>"), pad_token="<|endoftext|>")


def _speech_encoder_decoder(decoder, *, normalise_every_layer):
    encoder = Wav2Vec2Model(
        Wav2Vec2Config(
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            conv_dim=(8, 8, 8),
            conv_kernel=(10, 8, 8),
            conv_stride=(8, 8, 5),
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2,
            feat_extract_norm="layer" if normalise_every_layer else "group",
            do_stable_layer_norm=normalise_every_layer,
        )
    )
    model = SpeechEncoderDecoderModel(encoder=encoder, decoder=decoder)
    known = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 0}
    for name, token in known.items():
        setattr(model.config, name, token)
    model.generation_config = GenerationConfig(**known)
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=normalise_every_layer)
    return model, Wav2Vec2Processor(extractor, _gpt2_tokenizer())


def _qwen2(vocabulary):
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=0,
    )


def _sampled_by_default():
    """Settings of generation such as audio LLMs come with: rlcap samples by its own."""
    return GenerationConfig(
        do_sample=True,
        eos_token_id=[0, 2],
        pad_token_id=0,
        repetition_penalty=1.1,
        temperature=0.7,
        top_k=20,
        top_p=0.5,
    )

